#include "vmm/control/testing/reflection_client.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "google/protobuf/message.h"
#include "google/protobuf/util/json_util.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "third_party/grpc_protos/reflection/v1alpha/reflection.grpc.pb.h"

namespace bulkhead::vmm {
namespace {

using ::google::protobuf::FileDescriptorProto;
using ::google::protobuf::Message;
using ::google::protobuf::MethodDescriptor;
using ::grpc::reflection::v1alpha::ServerReflection;
using ::grpc::reflection::v1alpha::ServerReflectionRequest;
using ::grpc::reflection::v1alpha::ServerReflectionResponse;

constexpr absl::Duration kCallTimeout = absl::Seconds(20);

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallTimeout));
}

absl::Status ToStatus(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

absl::StatusOr<ServerReflectionResponse> Ask(const std::shared_ptr<grpc::Channel>& channel,
                                             const ServerReflectionRequest& request) {
  grpc::ClientContext context;
  SetDeadline(context);
  const auto stream = ServerReflection::NewStub(channel)->ServerReflectionInfo(&context);
  ServerReflectionResponse response;
  stream->Write(request);
  stream->WritesDone();
  const bool answered = stream->Read(&response);
  RETURN_IF_ERROR(ToStatus(stream->Finish()));
  if (!answered) return absl::InternalError("no answer to a reflection request");
  if (response.has_error_response()) {
    return absl::Status(static_cast<absl::StatusCode>(response.error_response().error_code()),
                        response.error_response().error_message());
  }
  return response;
}

}  // namespace

ReflectionClient::ReflectionClient(std::shared_ptr<grpc::Channel> channel)
    : channel_(std::move(channel)), messages_(&pool_) {}

absl::StatusOr<std::vector<std::string>> ReflectionClient::ListServices() {
  ServerReflectionRequest request;
  request.set_list_services("*");
  ASSIGN_OR_RETURN(const ServerReflectionResponse response, Ask(channel_, request));
  std::vector<std::string> names;
  for (const auto& service : response.list_services_response().service()) {
    names.push_back(service.name());
  }
  return names;
}

absl::Status ReflectionClient::Fetch(const std::string& symbol) {
  ServerReflectionRequest request;
  request.set_file_containing_symbol(symbol);
  ASSIGN_OR_RETURN(const ServerReflectionResponse response, Ask(channel_, request));
  // A file comes before those that it imports.
  const auto& files = response.file_descriptor_response().file_descriptor_proto();
  for (int i = files.size() - 1; i >= 0; --i) {
    FileDescriptorProto file;
    if (!file.ParseFromString(files.Get(i))) return absl::InternalError("not a description");
    if (pool_.FindFileByName(file.name()) == nullptr && pool_.BuildFile(file) == nullptr) {
      return absl::InternalError(absl::StrCat(file.name(), " does not describe itself"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReflectionClient::Call(const std::string& method,
                                                   const std::string& request_json) {
  if (pool_.FindMethodByName(method) == nullptr) RETURN_IF_ERROR(Fetch(method));
  const MethodDescriptor* const descriptor = pool_.FindMethodByName(method);
  if (descriptor == nullptr) return absl::NotFoundError(method);
  const std::unique_ptr<Message> request(messages_.GetPrototype(descriptor->input_type())->New());
  const std::unique_ptr<Message> reply(messages_.GetPrototype(descriptor->output_type())->New());
  if (!google::protobuf::util::JsonStringToMessage(request_json, request.get()).ok()) {
    return absl::InvalidArgumentError(request_json);
  }

  const grpc::Slice slice(request->SerializeAsString());
  const grpc::ByteBuffer request_bytes(&slice, 1);
  grpc::ByteBuffer reply_bytes;
  grpc::ClientContext context;
  SetDeadline(context);
  grpc::CompletionQueue queue;
  const auto call = grpc::GenericStub(channel_).PrepareUnaryCall(
      &context, absl::StrCat("/", descriptor->service()->full_name(), "/", descriptor->name()),
      request_bytes, &queue);
  grpc::Status status;
  call->StartCall();
  call->Finish(&reply_bytes, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  RETURN_IF_ERROR(ToStatus(status));
  grpc::ProtoBufferReader reader(&reply_bytes);
  std::string json;
  if (!reply->ParseFromZeroCopyStream(&reader) ||
      !google::protobuf::util::MessageToJsonString(*reply, &json).ok()) {
    return absl::InternalError("the answer does not match the reflected type");
  }
  return json;
}

}  // namespace bulkhead::vmm
