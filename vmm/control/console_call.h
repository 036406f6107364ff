#ifndef BULKHEAD_VMM_CONTROL_CONSOLE_CALL_H_
#define BULKHEAD_VMM_CONTROL_CONSOLE_CALL_H_

#include <stddef.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/server_callback.h"
#include "proto/vm_control.pb.h"
#include "vmm/console/console_hub.h"
#include "vmm/control/client_stream.h"
#include "vmm/control/open_calls.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// One AttachConsole call. It buffers one message in each direction: input of a client that types
// faster than the console accepts is not read, and a client that reads too slowly loses output in
// the hub. The initial metadata is sent once the client is attached.
class ConsoleCall final : public grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>,
                          public ClientStream {
 public:
  // The result is for the method's handler to return; gRPC then owns it. `wake` may be called on
  // any thread and causes a Pump() soon. All must outlive the call.
  static grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>* Start(
      OpenCalls& streams, VmOperations& vm, std::function<void()> wake);

 private:
  ConsoleCall(OpenCalls& streams, VmOperations& vm, std::function<void()> wake)
      : streams_(streams), vm_(vm), wake_(std::move(wake)) {}

  void OnReadDone(bool ok) override { Notify({.read = true, .input_ended = !ok}); }
  void OnWriteDone(bool ok) override { Notify({.written = true, .cancelled = !ok}); }
  void OnCancel() override { Notify({.cancelled = true}); }
  void OnDone() override;
  void Step(const Changes& changes) override;

  // Errors: the status to finish the call with.
  absl::Status TakeInput();
  absl::Status Attach();
  void FinishWith(const absl::Status& status);

  OpenCalls& streams_;
  VmOperations& vm_;
  const std::function<void()> wake_;
  std::shared_ptr<ClientStream> self_;  // until OnDone()

  // Used by Step() only.
  std::unique_ptr<ConsoleHub::Client> client_;  // null: not attached yet
  std::string device_;
  v1::ConsoleInput input_;
  bool has_input_ = false;  // a part of `input_` has yet to be typed
  size_t typed_ = 0;        // of `input_`
  bool reading_ = false;
  bool input_ended_ = false;
  v1::ConsoleOutput output_;
  bool writing_ = false;
  bool finished_ = false;
  absl::Status end_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CONSOLE_CALL_H_
