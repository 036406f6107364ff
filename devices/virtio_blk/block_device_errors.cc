// Requests of a BlockDevice that wait until the operator has mended what the host could not do.
#include <errno.h>
#include <unistd.h>

#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "devices/virtio_blk/block_device.h"
#include "proto/error_link.h"

namespace bulkhead::devices::virtio {

absl::Status BlockDevice::StartErrorLink() {
  ASSIGN_OR_RETURN(error_link_, host_->TakeResource("errors"));
  context_.hold_errors = true;
  return host_->Watch(error_link_.get(), [this] { OnErrorLink(); });
}

void BlockDevice::Hold(uint32_t index) {
  const BlockRequest& request = slots_[index].request;
  LogFailure(request);
  const bool is_first = errors_.first == kNoSlot;
  Append(errors_, index);
  if (!is_first || !error_link_.ok()) return;
  const ErrorReport report = {.error_number = static_cast<uint32_t>(request.error_number()),
                              .is_write = request.type() != kBlockIn,
                              .position = request.operation().offset};
  // Fails only if the vmm is gone: it reads each report before it has requests tried again.
  if (write(error_link_.get(), &report, sizeof(report)) != sizeof(report)) {
    LogError("disk: the error could not be reported to the vmm");
  }
}

void BlockDevice::OnErrorLink() {
  ErrorOrder order;
  const ssize_t size = read(error_link_.get(), &order, sizeof(order));
  if (size < 0 && errno == EAGAIN) return;
  if (size <= 0) {
    host_->Unwatch(error_link_.get());
    error_link_.reset();
    return;
  }
  answers_errors_ = order == ErrorOrder::kReportToGuest;
  if (answers_errors_) {
    AnswerErrors();
  } else {
    for (uint32_t index = std::exchange(errors_.first, kNoSlot); index != kNoSlot;) {
      Append(ready_, std::exchange(index, slots_[index].next));
    }
  }
  services_->Publish();
  OnEngine();
}

void BlockDevice::AnswerErrors() {
  // Else BeginTurn() calls it again.
  if (!services_->dma_allowed()) return;
  if (!std::exchange(answers_errors_, false)) return;
  BlockContext answering = context_;
  answering.hold_errors = false;
  for (uint32_t index = std::exchange(errors_.first, kNoSlot); index != kNoSlot;) {
    const uint32_t held = std::exchange(index, slots_[index].next);
    BlockRequest& request = slots_[held].request;
    Continue(held, request.OnResult(-request.error_number(), answering));
  }
}

}  // namespace bulkhead::devices::virtio
