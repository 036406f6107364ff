#include "integration/harness/vm_client.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "proto/control_socket.h"

namespace bulkhead::integration {
namespace {

using Stub = v1::VmControl::Stub;

constexpr std::chrono::seconds kTimeout(30);

absl::Status ToStatus(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

template <typename Request, typename Reply>
absl::StatusOr<Reply> Call(Stub& stub,
                           grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Reply*),
                           const Request& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  Reply reply;
  RETURN_IF_ERROR(ToStatus((stub.*method)(&context, request, &reply)));
  return reply;
}

template <typename Request>
Request Named(const std::string& name) {
  Request request;
  request.set_name(name);
  return request;
}

}  // namespace

std::string ControlSocketOf(const std::string& vm_name) {
  return ControlSocketPath(RuntimeDirectory(), vm_name);
}

VmClient::VmClient(const std::string& socket_path) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  stub_ = v1::VmControl::NewStub(grpc::CreateCustomChannel(
      absl::StrCat("unix:", socket_path), grpc::InsecureChannelCredentials(), arguments));
}

absl::StatusOr<v1::VmStatus> VmClient::GetStatus() const {
  return Call(*stub_, &Stub::GetStatus, v1::GetStatusRequest());
}
absl::Status VmClient::Wake() const {
  return Call(*stub_, &Stub::Wake, v1::WakeRequest()).status();
}

absl::Status VmClient::Shutdown() const {
  return Call(*stub_, &Stub::Shutdown, v1::ShutdownRequest()).status();
}
absl::Status VmClient::Stop() const {
  return Call(*stub_, &Stub::Stop, v1::StopRequest()).status();
}
absl::Status VmClient::Pause() const {
  return Call(*stub_, &Stub::Pause, v1::PauseRequest()).status();
}
absl::Status VmClient::Resume() const {
  return Call(*stub_, &Stub::Resume, v1::ResumeRequest()).status();
}
absl::StatusOr<v1::Device> VmClient::GetDevice(const std::string& name) const {
  return Call(*stub_, &Stub::GetDevice, Named<v1::GetDeviceRequest>(name));
}
absl::StatusOr<v1::Device> VmClient::RestartDevice(const std::string& name,
                                                   const std::string& binary) const {
  auto request = Named<v1::RestartDeviceRequest>(name);
  request.set_binary(binary);
  return Call(*stub_, &Stub::RestartDevice, request);
}
absl::StatusOr<v1::Device> VmClient::ResetDevice(const std::string& name) const {
  return Call(*stub_, &Stub::ResetDevice, Named<v1::ResetDeviceRequest>(name));
}
absl::StatusOr<v1::Device> VmClient::StopDevice(const std::string& name) const {
  return Call(*stub_, &Stub::StopDevice, Named<v1::StopDeviceRequest>(name));
}
absl::StatusOr<v1::Device> VmClient::StartDevice(const std::string& name) const {
  return Call(*stub_, &Stub::StartDevice, Named<v1::StartDeviceRequest>(name));
}
absl::StatusOr<v1::VmMetrics> VmClient::GetMetrics() const {
  return Call(*stub_, &Stub::GetMetrics, v1::GetMetricsRequest());
}

absl::StatusOr<std::vector<v1::Event>> VmClient::PastEvents() const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  v1::WatchEventsRequest request;
  request.set_only_past(true);
  const std::unique_ptr<grpc::ClientReader<v1::Event>> reader =
      stub_->WatchEvents(&context, request);
  std::vector<v1::Event> events;
  v1::Event event;
  while (reader->Read(&event)) events.push_back(event);
  RETURN_IF_ERROR(ToStatus(reader->Finish()));
  return events;
}

}  // namespace bulkhead::integration
