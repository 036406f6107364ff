#ifndef BULKHEAD_VMM_CONTROL_VM_CONTROL_SERVICE_H_
#define BULKHEAD_VMM_CONTROL_VM_CONTROL_SERVICE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "proto/vm_control.grpc.pb.h"
#include "proto/vm_control.pb.h"
#include "vmm/control/open_calls.h"
#include "vmm/control/refused_clients.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// VmControl over VmOperations: one line for each call. Runs on gRPC's threads and never blocks.
class VmControlService final : public v1::VmControl::CallbackService {
 public:
  // `streams` holds WatchEvents, Trace and AttachConsole calls, `long_calls` those that the VM
  // answers later. `wake` may be called on any thread and causes a streams.PumpAll() soon. All must
  // outlive the service's calls.
  VmControlService(VmOperations& vm, const RefusedClients& refused, OpenCalls& streams,
                   OpenCalls& long_calls, std::function<void()> wake)
      : vm_(vm),
        refused_(refused),
        streams_(streams),
        long_calls_(long_calls),
        wake_(std::move(wake)) {}

 private:
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* GetStatus(Context* context, const v1::GetStatusRequest* request,
                     v1::VmStatus* reply) override;
  Reactor* Shutdown(Context* context, const v1::ShutdownRequest* request,
                    v1::ShutdownReply* reply) override;
  Reactor* Wake(Context* context, const v1::WakeRequest* request, v1::WakeReply* reply) override;
  Reactor* Stop(Context* context, const v1::StopRequest* request, v1::StopReply* reply) override;
  Reactor* Pause(Context* context, const v1::PauseRequest* request, v1::PauseReply* reply) override;
  Reactor* Resume(Context* context, const v1::ResumeRequest* request,
                  v1::ResumeReply* reply) override;
  Reactor* ListDevices(Context* context, const v1::ListDevicesRequest* request,
                       v1::ListDevicesReply* reply) override;
  Reactor* GetDevice(Context* context, const v1::GetDeviceRequest* request,
                     v1::Device* reply) override;
  Reactor* RestartDevice(Context* context, const v1::RestartDeviceRequest* request,
                         v1::Device* reply) override;
  Reactor* ResizeDisk(Context* context, const v1::ResizeDiskRequest* request,
                      v1::Device* reply) override;
  Reactor* LimitDevice(Context* context, const v1::LimitDeviceRequest* request,
                       v1::Device* reply) override;
  Reactor* ResetDevice(Context* context, const v1::ResetDeviceRequest* request,
                       v1::Device* reply) override;
  Reactor* StopDevice(Context* context, const v1::StopDeviceRequest* request,
                      v1::Device* reply) override;
  Reactor* StartDevice(Context* context, const v1::StartDeviceRequest* request,
                       v1::Device* reply) override;
  Reactor* SetDeviceLink(Context* context, const v1::SetDeviceLinkRequest* request,
                         v1::Device* reply) override;
  Reactor* GetBalloon(Context* context, const v1::GetBalloonRequest* request,
                      v1::Balloon* reply) override;
  Reactor* SetBalloon(Context* context, const v1::SetBalloonRequest* request,
                      v1::Balloon* reply) override;
  Reactor* GetMetrics(Context* context, const v1::GetMetricsRequest* request,
                      v1::VmMetrics* reply) override;
  grpc::ServerWriteReactor<v1::Event>* WatchEvents(Context* context,
                                                   const v1::WatchEventsRequest* request) override;
  grpc::ServerWriteReactor<v1::TraceChunk>* Trace(Context* context,
                                                  const v1::TraceRequest* request) override;
  grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>* AttachConsole(
      Context* context) override;

  // Starts `operation` on the named device. The reply is the device's state afterwards.
  Reactor* OnDevice(Context* context, const std::string& name, v1::Device* reply,
                    const std::function<void(VmOperations::Done)>& operation);

  // Asks the devices for their metrics, then gives the balloon.
  Reactor* AnswerBalloon(v1::Balloon* reply);

  VmOperations& vm_;
  const RefusedClients& refused_;
  OpenCalls& streams_;
  OpenCalls& long_calls_;
  const std::function<void()> wake_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_VM_CONTROL_SERVICE_H_
