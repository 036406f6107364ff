#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/access_mask.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/testing/fuzz_input.h"
#include "proto/channel/channel_memory.h"
#include "proto/channel/channel_server.h"

// The device's end against request memory that holds anything at any time, and a head that a
// hostile predecessor left. The vmm is trusted; the code behind this end must not depend on it.

namespace bulkhead::channel {
namespace {

constexpr uint32_t kSlots = 4;
constexpr uint32_t kWaiters = 2;

class HostileSession {
 public:
  HostileSession(const uint8_t* data, size_t size)
      : input_(data, size),
        request_fd_(*CreateMemfd("requests", RequestView::SizeBytes(kSlots, kWaiters))),
        response_fd_(*CreateMemfd("responses", ResponseView::SizeBytes(kWaiters))),
        request_mapping_(Map(request_fd_, RequestView::SizeBytes(kSlots, kWaiters))),
        response_mapping_(Map(response_fd_, ResponseView::SizeBytes(kWaiters))),
        requests_(request_mapping_.data(), kSlots, kWaiters),
        response_(response_mapping_.data()) {}

  void Run() {
    requests_.header().magic = kRequestMagic;
    requests_.header().version = kLayoutVersion;
    requests_.header().slots = kSlots;
    requests_.header().waiters = kWaiters;
    if (!Attach()) return;
    while (!input_.empty()) {
      switch (input_.Byte() % 8) {
        case 0:
        case 1:
        case 2:
          Publish();
          break;
        case 3:
        case 4:
          Process();
          break;
        case 5:  // any byte at all
          request_mapping_.data()[input_.Take(8) % request_mapping_.size()] = input_.Byte();
          break;
        case 6:
          Sleep();
          break;
        case 7:
          if (input_.Byte() % 4 == 0) {
            response_mapping_.data()[input_.Take(8) % ResponseView::TraceOffset(kWaiters)] =
                input_.Byte();
            if (!Attach()) return;
          }
          break;
      }
    }
  }

 private:
  static MemoryMapping Map(const UniqueFd& fd, size_t size_bytes) {
    return *MemoryMapping::Map(fd.get(), 0, size_bytes, MemoryMapping::Protection::kReadWrite);
  }

  // A successor. False: it refuses what it finds.
  bool Attach() {
    const uint64_t head = response_.header().head.load();
    WakePipe pipe = *WakePipe::Create();
    ServerDescriptors descriptors = {.request_memory = UniqueFd(dup(request_fd_.get())),
                                     .response_memory = UniqueFd(dup(response_fd_.get())),
                                     .request_event = UniqueFd(dup(pipe.read_fd()))};
    for (uint32_t i = 0; i < kWaiters; ++i) {
      descriptors.completion_events.emplace_back(dup(EventFd::Create()->fd()));
    }
    absl::StatusOr<std::unique_ptr<ChannelServer>> server = ChannelServer::Create(
        std::move(descriptors),
        {.slots = kSlots, .waiters = kWaiters, .max_poll = absl::ZeroDuration(), .generation = 1});
    if (!server.ok()) {
      Require(server.status().code() == absl::StatusCode::kDataLoss ||
              server.status().code() == absl::StatusCode::kInvalidArgument);
      return false;
    }
    server_ = *std::move(server);
    head_ = head;
    return true;
  }

  // A slot as the vmm would write it, most of the time.
  void Publish() {
    const uint64_t ticket = input_.Near(head_ + 4);
    RequestSlot& slot = requests_.slot(ticket);
    slot.offset.Write(input_.Take(8));
    slot.data.Write(input_.Take(8));
    slot.shape.Write(RequestShape{.operation = static_cast<uint8_t>(input_.Byte() % 7),
                                  .size_bytes = static_cast<uint8_t>(1 << input_.Byte() % 5),
                                  .waiter = static_cast<uint16_t>(input_.Byte() % 3),
                                  .region = input_.Byte(),
                                  .flags = input_.Byte() / 240u}
                         .Pack());
    slot.sequence.store(ticket);
  }

  void Process() {
    const uint64_t refused = response_.header().refused.load();
    ChannelServer::Request request;
    const bool found = server_->TryPeek(request);
    const uint64_t skipped = response_.header().refused.load() - refused;
    Require(skipped <= kSlots);
    head_ += skipped;
    Require(response_.header().head.load() == head_ || skipped == 0);
    if (!found) {
      Require(requests_.slot(head_ + 1).sequence.load() != head_ + 1);
      return;
    }
    Require(request.ticket == head_ + 1);
    Require(request.operation >= Operation::kRead && request.operation <= Operation::kReset);
    Require(IsAccessSize(request.size_bytes));
    Require(request.waiter < kWaiters);
    Require((request.data & ~AccessMask(request.size_bytes)) == 0);
    if (input_.Byte() % 8 == 0) return;  // not yet
    if (request.operation == Operation::kPostedWrite) {
      server_->Retire(request);
    } else {
      const uint64_t answer = input_.Take(8);
      server_->Complete(request, answer);
      const CompletionSlot& completion = response_.completion(request.waiter);
      Require(completion.ticket.load() == request.ticket);
      Require(completion.data.Read() == answer);
      Require(completion.status.Read() == 0);
    }
    ++head_;
    Require(response_.header().head.load() == head_);
  }

  void Sleep() {
    server_->HasLaterRequest();
    const bool has_request = requests_.slot(head_ + 1).sequence.load() == head_ + 1;
    Require(server_->PollForRequest() == has_request);
    Require(server_->PrepareToSleep() == !has_request);
    Require((response_.header().sleeping.load() == 0) == has_request);
    if (!has_request) server_->AfterSleep();
    Require(response_.header().sleeping.load() == 0);
  }

  FuzzInput input_;
  const UniqueFd request_fd_;
  const UniqueFd response_fd_;
  const MemoryMapping request_mapping_;
  const MemoryMapping response_mapping_;
  const RequestView requests_;
  const ResponseView response_;
  std::unique_ptr<ChannelServer> server_;
  uint64_t head_ = 0;
};

}  // namespace
}  // namespace bulkhead::channel

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bulkhead::channel::HostileSession(data, size).Run();
  return 0;
}
