#include "vmm/control/reflection.h"

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "grpcpp/support/server_callback.h"
#include "proto/vm_control.pb.h"
#include "third_party/grpc_protos/health/v1/health.pb.h"
#include "vmm/control/client_stream.h"
#include "vmm/control/grpc_status.h"

namespace bulkhead::vmm {
namespace {

using ::google::protobuf::DescriptorPool;
using ::google::protobuf::FileDescriptor;
using ::google::protobuf::FileDescriptorProto;
using ::grpc::reflection::v1alpha::ServerReflectionRequest;
using ::grpc::reflection::v1alpha::ServerReflectionResponse;

// The files of the server's services. The reference also links the descriptor of gRPC's health
// service, which gRPC itself does not use.
std::vector<const FileDescriptor*> ServiceFiles() {
  return {v1::VmStatus::descriptor()->file(),
          grpc::health::v1::HealthCheckRequest::descriptor()->file(),
          ServerReflectionRequest::descriptor()->file()};
}

// A file and all its imports, each once.
void AddFile(const FileDescriptor& file, std::set<const FileDescriptor*>& added,
             ServerReflectionResponse& response) {
  if (!added.insert(&file).second) return;
  FileDescriptorProto proto;
  file.CopyTo(&proto);
  response.mutable_file_descriptor_response()->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) {
    AddFile(*file.dependency(i), added, response);
  }
}

void SetError(const absl::Status& status, ServerReflectionResponse& response) {
  response.mutable_error_response()->set_error_code(status.raw_code());
  response.mutable_error_response()->set_error_message(std::string(status.message()));
}

void AnswerWithFile(const FileDescriptor* file, const std::string& name,
                    ServerReflectionResponse& response) {
  if (file == nullptr) {
    SetError(absl::NotFoundError(
                 absl::StrCat("'", name, "' is unknown: list_services returns the known services")),
             response);
    return;
  }
  std::set<const FileDescriptor*> added;
  AddFile(*file, added, response);
}

// One stream of requests, answered one after the other.
class ReflectionCall final
    : public grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse>,
      public ClientStream {
 public:
  static ReflectionCall* Start(OpenCalls& streams) {
    const std::shared_ptr<ReflectionCall> call(new ReflectionCall(streams));
    call->self_ = call;
    if (absl::Status status = streams.Add(call); !status.ok()) {
      call->FinishWith(ToGrpcStatus(status));
    } else {
      call->StartRead(&call->request_);
    }
    return call.get();
  }

 private:
  explicit ReflectionCall(OpenCalls& streams) : streams_(streams) {}

  void OnReadDone(bool ok) override { Notify({.read = true, .input_ended = !ok}); }
  void OnWriteDone(bool ok) override { Notify({.written = true, .cancelled = !ok}); }
  void OnCancel() override { Notify({.cancelled = true}); }
  void OnDone() override {
    streams_.Remove(this);
    self_.reset();
  }

  void Step(const Changes& changes) override {
    if (!changes.end.ok()) end_ = changes.end;
    if (changes.written) writing_ = false;
    if (finished_) return;
    if (changes.cancelled) return FinishWith(grpc::Status::CANCELLED);
    if (changes.input_ended) return FinishWith(grpc::Status::OK);
    if (changes.read) {
      response_ = Reflect(request_);
      writing_ = true;
      StartWrite(&response_);
    }
    if (writing_) return;
    if (!end_.ok()) return FinishWith(ToGrpcStatus(end_));
    if (changes.written) StartRead(&request_);
  }

  void FinishWith(const grpc::Status& status) {
    finished_ = true;
    Finish(status);
  }

  OpenCalls& streams_;
  std::shared_ptr<ClientStream> self_;  // until OnDone()
  // Used by Step() only.
  ServerReflectionRequest request_;
  ServerReflectionResponse response_;
  bool writing_ = false;
  bool finished_ = false;
  absl::Status end_;
};

}  // namespace

ServerReflectionResponse Reflect(const ServerReflectionRequest& request) {
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kListServices:
      for (const FileDescriptor* file : ServiceFiles()) {
        for (int i = 0; i < file->service_count(); ++i) {
          response.mutable_list_services_response()->add_service()->set_name(
              file->service(i)->full_name());
        }
      }
      break;
    case ServerReflectionRequest::kFileByFilename:
      AnswerWithFile(pool.FindFileByName(request.file_by_filename()), request.file_by_filename(),
                     response);
      break;
    case ServerReflectionRequest::kFileContainingSymbol:
      AnswerWithFile(pool.FindFileContainingSymbol(request.file_containing_symbol()),
                     request.file_containing_symbol(), response);
      break;
    default:  // proto3 has no extensions
      SetError(absl::UnimplementedError("supported requests: list_services, file_by_filename, "
                                        "file_containing_symbol"),
               response);
  }
  return response;
}

grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse>*
ReflectionService::ServerReflectionInfo(grpc::CallbackServerContext*) {
  return ReflectionCall::Start(streams_);
}

}  // namespace bulkhead::vmm
