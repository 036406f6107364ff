#ifndef BULKHEAD_DEVICES_HOST_DEVICE_HOST_H_
#define BULKHEAD_DEVICES_HOST_DEVICE_HOST_H_

#include <stdint.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "base/guest_memory.h"
#include "base/unique_fd.h"
#include "devices/host/attachment.h"
#include "devices/host/control_mailbox.h"
#include "devices/host/device_model.h"
#include "devices/host/durable_state.h"
#include "devices/host/interrupt_lines.h"
#include "devices/host/mapped_pages.h"
#include "devices/host/poller.h"
#include "devices/host/region_table.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/trace_ring.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {

// The data plane of a device process: feeds one model with the guest's accesses from the
// channel, its doorbells, its watched descriptors and the commands of the control mailbox, all on
// one thread.
//
// Order: a doorbell comes by another path than a posted write and may overtake it, so before a
// doorbell is served, every request that was in the ring when it was seen is applied.
//
// Exactly once: a request is applied to the model; if that changed its state, the state is saved
// together with the request's ticket and answer; then the request is completed. If the process dies
// before the save, its successor applies the request; if it dies later, its successor answers it.
//
// Owns what the vmm handed over; the model is the caller's and ends first.
class DeviceHost final : public DeviceServices {
 public:
  // Maps guest memory, the channel and the durable state. `info` describes the model; `control`
  // outlives this. Errors: what was handed over does not fit together, or the predecessor left it
  // in a state that cannot be resumed, or as mmap(2) and epoll_ctl(2). The text is for the
  // operator.
  static absl::StatusOr<std::unique_ptr<DeviceHost>> Create(const v1::DeviceInfo& info,
                                                            Attachment attachment,
                                                            ControlMailbox& control);

  // Starts the model, and restores the state of the device's last process. Errors: the model's;
  // InvalidArgument if it did not take a resource; DataLoss if the saved state does not fit the
  // channel.
  absl::Status Start(DeviceModel& model);

  // Serves the model that Start() started. Begins with a call of OnDoorbell() for every
  // doorbell: an earlier process may have taken one and died. Returns OK once the peer has closed
  // `attach_socket` or has commanded a shutdown. Errors: InvalidArgument (the vmm sent a message
  // that is not expected).
  absl::Status Run(int attach_socket);

  // DeviceServices, for the model.
  const GuestMemory& memory() const override { return memory_; }
  void GuestMemoryUsed(absl::Span<const iovec> buffers) override { mapped_pages_.Used(buffers); }
  void SignalMsix(uint32_t vector) override { interrupts_.SignalMsix(vector); }
  void SetIntx(bool level) override { interrupts_.SetIntx(level); }
  bool writeback_failed(absl::string_view name) const override;
  void OweWritebackFailure(bool owed) override;
  absl::StatusOr<UniqueFd> TakeResource(absl::string_view name) override;
  absl::Status Watch(int fd, absl::AnyInvocable<void()> on_readable) override;
  void Unwatch(int fd) override;
  void StateChanged() override { state_changed_ = true; }
  absl::Span<uint8_t> durable_memory() override;
  void KeepAlive() override;
  channel::TraceRecorder trace() const override { return trace_; }
  void SetAwaitsBackEnd(bool awaits) override { channel_->SetAwaitsBackEnd(awaits); }
  absl::Span<const GuestMemoryBlock> memory_blocks() const override { return memory_blocks_; }
  MemoryFilePlace durable_memory_file() const override { return durable_memory_file_; }
  int LendDoorbell(uint32_t index) override;
  void TakeBackDoorbell(uint32_t index) override;
  int vector_descriptor(uint32_t vector) const override {
    return lends_descriptors_ ? interrupts_.vector_fd(vector) : -1;
  }

 private:
  using Request = channel::ChannelServer::Request;
  using Command = ControlMailbox::Command;

  enum class Mode {
    kServing,
    kResetting,  // until the model is at rest; reads give all ones, writes are dropped
    kQuiescing,  // until the model is at rest; neither requests nor doorbells are served
    kQuiesced,   // until Resume
  };

  struct Counters {
    std::array<uint64_t, 6> requests = {};  // by channel::Operation
    uint64_t doorbells = 0;
  };

  DeviceHost(const v1::DeviceInfo& info, Attachment attachment, GuestMemory memory,
             std::unique_ptr<channel::ChannelServer> channel, std::unique_ptr<DurableState> durable,
             std::unique_ptr<Poller> poller, ControlMailbox& control);

  absl::Status RegisterEvents();
  absl::Status RestoreFrom(const std::optional<DurableState::Loaded>& left);
  // To the interrupt lines and the model.
  void ForwardFunctionState();

  void ServeOnce();
  // Lets a held model serve, if all requests that were sent so far are applied.
  void ReleaseModel();
  // Applies the requests that are in the ring, `limit` at most. How many.
  uint32_t ServeRequests(uint32_t limit);
  // Bus mastering was taken away, and the model has DMA in flight: the answer waits for its end.
  bool WaitsForDma(const Request& request) const;
  void AnswerWhenDmaHasEnded();
  // How long to sleep at most: `otherwise`, unless such an answer is due earlier.
  absl::Duration SleepLimit(absl::Duration otherwise) const;
  // Applies one request to the model. Returns the answer.
  uint64_t Apply(const Request& request);
  void Complete(const Request& request, uint64_t answer);
  // Serves the doorbells that have been rung, and the work that the model has found without them,
  // or leaves them to a later call.
  void ServeDoorbells();
  void RingAllDoorbells();  // but those that are lent
  // Applies every request that may have been sent before an event of another path. False: one is
  // not complete yet, or requests are not served now.
  bool ServeRequestsSentSoFar();
  // Calls back for ready descriptors. True if there were any.
  bool CheckEvents();
  void AfterCallback();
  void OnLookedForRequests();
  void Sleep();
  void OnAttachSocket(int attach_socket);

  void SaveIfChanged();
  // Saves the model's state, in which the request of that ticket has been applied.
  void Save(uint64_t ticket, uint64_t answer);

  // The rest is in device_host_control.cc.
  void TakeCommands();
  // Executes command_, or does what has to come before ExecuteCommand().
  void BeginCommand();
  // Answers command_. False: its caller had given up.
  bool EndCommand(absl::Status result);
  // Executes command_ once all requests that were sent before it are applied.
  void ExecuteCommand();
  // A turn of the loop in every mode but kServing: finishes the reset or the quiescing when the
  // model is at rest, else waits.
  void AwaitRest();
  // `request`: the guest's, or nullptr if command_ is the reset.
  void BeginReset(const Request* request);
  void OrderReset(uint64_t ticket);
  void ServeWhileResetting();
  void FinishReset();
  void FinishQuiesce();
  void Resume();
  void AppendMetrics(v1::DeviceMetrics& metrics) const;

  const RegionTable regions_;
  const bool is_pci_;
  const bool lends_descriptors_;
  const uint32_t ring_slots_;
  const GuestMemory memory_;
  MappedPages mapped_pages_;
  // Unless lends_descriptors_, all are empty: the descriptors of memory are closed.
  std::vector<Attachment::GuestMemoryRange> memory_files_;
  std::vector<GuestMemoryBlock> memory_blocks_;
  UniqueFd durable_file_;
  MemoryFilePlace durable_memory_file_;
  InterruptLines interrupts_;
  std::vector<Attachment::Resource> resources_;
  const std::string seccomp_filter_;
  const std::vector<EventFd> doorbells_;
  const std::unique_ptr<channel::ChannelServer> channel_;
  const channel::TraceRecorder trace_;
  const std::unique_ptr<DurableState> durable_;  // nullptr: the device keeps nothing
  const std::unique_ptr<Poller> poller_;
  ControlMailbox& control_;

  DeviceModel* model_ = nullptr;
  uint64_t function_state_;  // kFunctionState...
  // As the vmm has it in the attach request, until a request brings a newer one.
  std::optional<uint64_t> attached_function_state_;
  bool state_changed_ = false;             // since the last save
  bool owes_failure_ = false;              // as the model says
  bool predecessor_owed_failure_ = false;  // and there is no state to restore that says so
  std::vector<Request> waiting_for_dma_;   // answered late: see WaitsForDma()
  absl::Time dma_deadline_;                // of the first of them
  std::vector<bool> rung_;                 // by doorbell: to be served
  bool any_rung_ = false;
  std::vector<bool> lent_;       // by doorbell
  bool model_has_work_ = false;  // as a doorbell: to be served in its place
  // SetServing(true) is still to come: the model must not overtake requests that wait in the ring.
  bool model_is_held_ = false;
  bool asleep_ = false;
  uint32_t requests_since_check_ = 0;  // since descriptors were last looked at
  uint32_t yields_ = 0;                // for the request that is missing now

  const absl::Time release_latest_;
  bool released_ = false;  // the pages of the start-up

  Mode mode_ = Mode::kServing;
  bool commands_wait_ = false;            // in the mailbox
  std::shared_ptr<Command> command_;      // under way; one at a time
  bool reset_by_command_ = false;         // the reset under way is command_
  std::optional<Request> reset_request_;  // or this one, the next in the ring
  std::vector<Request> deferred_resets_;  // to be answered when the reset is complete
  std::optional<absl::Status> end_;
  bool looked_for_requests_ = false;  // since the last heartbeat was answered
  Counters counters_;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_DEVICE_HOST_H_
