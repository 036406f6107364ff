#include "vmm/control/vm_control_service.h"

#include <functional>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "vmm/control/call_after.h"
#include "vmm/control/console_call.h"
#include "vmm/control/event_stream.h"
#include "vmm/control/grpc_status.h"
#include "vmm/control/long_call.h"
#include "vmm/control/trace_stream.h"

namespace bulkhead::vmm {
namespace {

using Done = VmOperations::Done;

// A device that has not answered by then is shown as it was known before.
constexpr absl::Duration kRefreshTimeout = absl::Milliseconds(500);

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status CheckNamed(const std::string& name) {
  if (!name.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("name: is empty, must be a device's (see ListDevices)");
}

absl::Status Describe(const VmOperations& vm, const std::string& name, v1::Device* reply) {
  ASSIGN_OR_RETURN(*reply, vm.Device(name));
  return absl::OkStatus();
}

absl::Status NothingToAdd() { return absl::OkStatus(); }

}  // namespace

grpc::ServerUnaryReactor* VmControlService::GetStatus(Context* context, const v1::GetStatusRequest*,
                                                      v1::VmStatus* reply) {
  *reply = vm_.Status();
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VmControlService::Shutdown(Context* context, const v1::ShutdownRequest*,
                                                     v1::ShutdownReply* reply) {
  const absl::StatusOr<bool> listens = vm_.PressPowerButton();
  if (listens.ok()) reply->set_kept(!*listens);
  return Answer(context, listens.status());
}

grpc::ServerUnaryReactor* VmControlService::Wake(Context* context, const v1::WakeRequest*,
                                                 v1::WakeReply*) {
  return Answer(context, vm_.Wake());
}

grpc::ServerUnaryReactor* VmControlService::Stop(Context* context, const v1::StopRequest*,
                                                 v1::StopReply*) {
  return Answer(context, vm_.Stop("stopped by a client"));
}

grpc::ServerUnaryReactor* VmControlService::Pause(Context*, const v1::PauseRequest*,
                                                  v1::PauseReply*) {
  return LongCall::Start(
      long_calls_, [this](Done done) { vm_.Pause(std::move(done)); }, NothingToAdd);
}

grpc::ServerUnaryReactor* VmControlService::Resume(Context*, const v1::ResumeRequest* request,
                                                   v1::ResumeReply*) {
  return LongCall::Start(
      long_calls_,
      [this, report_errors = request->report_errors()](Done done) {
        vm_.Resume(report_errors, std::move(done));
      },
      NothingToAdd);
}

grpc::ServerUnaryReactor* VmControlService::ListDevices(Context* context,
                                                        const v1::ListDevicesRequest*,
                                                        v1::ListDevicesReply* reply) {
  std::vector<v1::Device> devices = vm_.Devices();
  reply->mutable_devices()->Assign(std::make_move_iterator(devices.begin()),
                                   std::make_move_iterator(devices.end()));
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VmControlService::GetDevice(Context* context,
                                                      const v1::GetDeviceRequest* request,
                                                      v1::Device* reply) {
  absl::Status status = CheckNamed(request->name());
  if (status.ok()) status = Describe(vm_, request->name(), reply);
  return Answer(context, status);
}

grpc::ServerUnaryReactor* VmControlService::OnDevice(Context* context, const std::string& name,
                                                     v1::Device* reply,
                                                     const std::function<void(Done)>& operation) {
  if (absl::Status status = CheckNamed(name); !status.ok()) return Answer(context, status);
  return LongCall::Start(long_calls_, operation,
                         [this, name, reply] { return Describe(vm_, name, reply); });
}

grpc::ServerUnaryReactor* VmControlService::RestartDevice(Context* context,
                                                          const v1::RestartDeviceRequest* request,
                                                          v1::Device* reply) {
  return OnDevice(context, request->name(), reply,
                  [&](Done done) { vm_.RestartDevice(*request, std::move(done)); });
}

grpc::ServerUnaryReactor* VmControlService::ResizeDisk(Context* context,
                                                       const v1::ResizeDiskRequest* request,
                                                       v1::Device* reply) {
  return OnDevice(context, request->name(), reply,
                  [&](Done done) { vm_.ResizeDisk(*request, std::move(done)); });
}

grpc::ServerUnaryReactor* VmControlService::LimitDevice(Context* context,
                                                        const v1::LimitDeviceRequest* request,
                                                        v1::Device* reply) {
  return OnDevice(context, request->name(), reply,
                  [&](Done done) { vm_.LimitDevice(*request, std::move(done)); });
}

grpc::ServerUnaryReactor* VmControlService::ResetDevice(Context* context,
                                                        const v1::ResetDeviceRequest* request,
                                                        v1::Device* reply) {
  return OnDevice(context, request->name(), reply,
                  [&](Done done) { vm_.ResetDevice(request->name(), std::move(done)); });
}

grpc::ServerUnaryReactor* VmControlService::StopDevice(Context* context,
                                                       const v1::StopDeviceRequest* request,
                                                       v1::Device* reply) {
  return OnDevice(context, request->name(), reply,
                  [&](Done done) { vm_.StopDevice(request->name(), std::move(done)); });
}

grpc::ServerUnaryReactor* VmControlService::StartDevice(Context* context,
                                                        const v1::StartDeviceRequest* request,
                                                        v1::Device* reply) {
  return OnDevice(context, request->name(), reply,
                  [&](Done done) { vm_.StartDevice(request->name(), std::move(done)); });
}

grpc::ServerUnaryReactor* VmControlService::SetDeviceLink(Context* context,
                                                          const v1::SetDeviceLinkRequest* request,
                                                          v1::Device* reply) {
  absl::Status status = CheckNamed(request->name());
  if (status.ok()) status = vm_.SetDeviceLink(request->name(), request->up());
  if (status.ok()) status = Describe(vm_, request->name(), reply);
  return Answer(context, status);
}

grpc::ServerUnaryReactor* VmControlService::AnswerBalloon(v1::Balloon* reply) {
  return LongCall::Start(
      long_calls_,
      [this](Done done) {
        CallAfter(kRefreshTimeout, [done] { done(absl::OkStatus()); });
        vm_.RefreshMetrics(std::move(done));
      },
      [this, reply]() -> absl::Status {
        ASSIGN_OR_RETURN(*reply, vm_.Balloon());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* VmControlService::GetBalloon(Context*, const v1::GetBalloonRequest*,
                                                       v1::Balloon* reply) {
  return AnswerBalloon(reply);
}

grpc::ServerUnaryReactor* VmControlService::SetBalloon(Context* context,
                                                       const v1::SetBalloonRequest* request,
                                                       v1::Balloon* reply) {
  const absl::Status status = vm_.SetBalloon(request->target_bytes());
  return status.ok() ? AnswerBalloon(reply) : Answer(context, status);
}

grpc::ServerUnaryReactor* VmControlService::GetMetrics(Context*, const v1::GetMetricsRequest*,
                                                       v1::VmMetrics* reply) {
  return LongCall::Start(
      long_calls_,
      [this](Done done) {
        CallAfter(kRefreshTimeout, [done] { done(absl::OkStatus()); });
        vm_.RefreshMetrics(std::move(done));
      },
      [this, reply] {
        *reply = vm_.Metrics();
        refused_.AppendTo(*reply);
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<v1::Event>* VmControlService::WatchEvents(
    Context*, const v1::WatchEventsRequest* request) {
  return EventStream::Start(streams_, vm_, request->only_past());
}

grpc::ServerWriteReactor<v1::TraceChunk>* VmControlService::Trace(Context*,
                                                                  const v1::TraceRequest* request) {
  return TraceStream::Start(streams_, vm_, *request);
}

grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>* VmControlService::AttachConsole(
    Context*) {
  return ConsoleCall::Start(streams_, vm_, wake_);
}

}  // namespace bulkhead::vmm
