#include "devices/virtio_balloon/balloon_device.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "devices/host/metrics.h"
#include "proto/balloon_link.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint16_t kTypeBalloon = 5;           // section 5
constexpr uint32_t kPciClassOther = 0xff0000;  // no class fits
constexpr uint64_t kBytesAtOnce = 16 << 20;    // a signal, SIGKILL too, is heard in between

}  // namespace

BalloonDevice::~BalloonDevice() {
  if (target_.ok()) host_->Unwatch(target_.get());
}

VirtioIdentity BalloonDevice::Identify() const {
  return {.model = "virtio-balloon",
          .type = kTypeBalloon,
          .pci_class = kPciClassOther,
          .config_size = sizeof(Config),
          .queue_sizes = std::vector<uint16_t>(kQueues, kQueueSize),
          .chains_per_turn = kMaxRequestsPerTurn,
          .required_resources = {kBalloonTargetResource},
          .saved_state_bytes = sizeof(Config),
          .state_version = 1};
}

absl::Status BalloonDevice::Start(VirtioServices& services) {
  services_ = &services;
  host_ = &services.host();
  storage_.resize(Virtqueue::StorageSize(kQueueSize, host_->memory()));
  ASSIGN_OR_RETURN(UniqueFd target, host_->TakeResource(kBalloonTargetResource));
  RETURN_IF_ERROR(host_->Watch(target.get(), [this] { OnTarget(); }));
  target_ = std::move(target);
  TakeTarget();
  return absl::OkStatus();
}

bool BalloonDevice::TakeTarget() {
  BalloonTarget targets[64];
  std::optional<BalloonTarget> last;
  ssize_t size;
  while ((size = read(target_.get(), targets, sizeof(targets))) > 0) {
    const size_t count = static_cast<size_t>(size) / sizeof(targets[0]);
    if (count != 0) last = targets[count - 1];
  }
  if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
    host_->Unwatch(target_.get());
    target_.reset();
  }
  if (!last.has_value()) return false;
  config_.target = static_cast<uint32_t>(std::min<uint64_t>(*last / kBalloonPage, UINT32_MAX));
  return true;
}

void BalloonDevice::OnTarget() {
  const uint32_t before = config_.target;
  if (!TakeTarget() || config_.target == before) return;
  host_->StateChanged();
  services_->ConfigChanged();
  CRASH_POINT("balloon_after_target");
}

void BalloonDevice::OnFeatures(uint64_t features) {
  may_report_ = (features & kBalloonReporting) != 0;
  // After a reset the driver has all pages.
  if (features == 0) config_.actual = 0;
}

void BalloonDevice::OnChain(uint32_t queue, const DescriptorChain& chain) {
  if (queue == kInflate) {
    Inflate(chain.readable);
    CRASH_POINT("balloon_after_inflate");
  } else if (queue == kDeflate) {
    // The next access to a page takes one from the host.
    for (const iovec& buffer : chain.readable) {
      deflated_pages_ += buffer.iov_len / sizeof(uint32_t);
    }
    CRASH_POINT("balloon_after_deflate");
  } else if (may_report_) {
    Report(chain.writable);
    CRASH_POINT("balloon_after_report");
  }
  services_->Complete(queue, chain.head, 0);
}

void BalloonDevice::Inflate(absl::Span<const iovec> request) {
  const PageList::Runs pages = pages_.Read(request, host_->memory());
  for (const PageRun& run : pages.runs) {
    Free(run.start, run.size_bytes);
    CRASH_POINT("balloon_amid_inflate");
  }
  inflated_pages_ += pages.pages;
  left_out_ += pages.left_out;
  host_->KeepAlive();
}

// Buffers lie in guest RAM; which of their pages are whole, the driver decides.
void BalloonDevice::Report(absl::Span<const iovec> pages) {
  uint64_t left = kMaxReportBytes;
  for (const iovec& buffer : pages) {
    // RAM is mapped at pages, so those of this process are the guest's.
    const uintptr_t begin = reinterpret_cast<uintptr_t>(buffer.iov_base);
    const uint64_t skipped = (kBalloonPage - begin % kBalloonPage) % kBalloonPage;
    if (buffer.iov_len < skipped + kBalloonPage) {
      ++left_out_;
      continue;
    }
    const uint64_t whole = (buffer.iov_len - skipped) / kBalloonPage * kBalloonPage;
    const uint64_t size = std::min(whole, left);
    left -= size;
    left_out_ += (whole - size) / kBalloonPage;
    Free(static_cast<uint8_t*>(buffer.iov_base) + skipped, size);
    reported_bytes_ += size;
    CRASH_POINT("balloon_amid_report");
  }
}

void BalloonDevice::Free(GuestAddress start, uint64_t size_bytes) {
  host_->memory().ForEachPart(start, size_bytes,
                              [this](uint8_t* host, uint64_t part) { Free(host, part); });
}

void BalloonDevice::Free(uint8_t* start, uint64_t size_bytes) {
  for (uint64_t done = 0; done < size_bytes;) {
    const uint64_t part = std::min(kBytesAtOnce, size_bytes - done);
    if (madvise(start + done, part, MADV_REMOVE) == 0) {
      freed_bytes_ += part;
    } else {
      // The guest does without the page all the same; the host does not have it, that is all.
      ++failures_;
      if (!std::exchange(has_failed_, true)) {
        LogWarning(absl::StrCat("guest memory cannot be freed: ", strerror(errno)));
      }
    }
    done += part;
    host_->KeepAlive();
  }
}

void BalloonDevice::ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const {
  memcpy(out.data(), reinterpret_cast<const uint8_t*>(&config_) + offset, out.size());
}

void BalloonDevice::WriteConfig(uint32_t offset, absl::Span<const uint8_t> bytes) {
  Config written = config_;
  memcpy(reinterpret_cast<uint8_t*>(&written) + offset, bytes.data(), bytes.size());
  if (written.actual == config_.actual) return;  // the target is not the driver's
  config_.actual = written.actual;
  host_->StateChanged();
}

size_t BalloonDevice::SaveState(absl::Span<uint8_t> out) const {
  memcpy(out.data(), &config_, sizeof(config_));
  return sizeof(config_);
}

absl::Status BalloonDevice::RestoreState(absl::Span<const uint8_t> state) {
  Config saved;
  if (state.size() != sizeof(saved)) {
    return absl::InvalidArgumentError(absl::StrCat("balloon: saved state of ", state.size(),
                                                   " bytes instead of ", sizeof(saved)));
  }
  memcpy(&saved, state.data(), sizeof(saved));
  config_.actual = saved.actual;
  // The target is the one that the vmm has sent to this process. Does the driver know it?
  if (saved.target != config_.target) {
    host_->StateChanged();
    services_->ConfigChanged();
  }
  return absl::OkStatus();
}

void BalloonDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddGauge(metrics, "target_bytes", "What the guest is to give up", config_.target * kBalloonPage);
  AddGauge(metrics, kBalloonActualMetric, "What the guest has given up, as it says itself",
           config_.actual * kBalloonPage);
  AddCounter(metrics, "inflated_pages_total", "Pages of 4 KiB that the guest gave up",
             inflated_pages_);
  AddCounter(metrics, "deflated_pages_total", "Pages of 4 KiB that the guest took back",
             deflated_pages_);
  AddCounter(metrics, "reported_bytes_total", "Free memory that the guest reported",
             reported_bytes_);
  AddCounter(metrics, "freed_bytes_total", "Guest memory that was freed, or was free already",
             freed_bytes_);
  AddCounter(metrics, "left_out_total",
             "Pages of the guest's requests that are no RAM, or too many at once", left_out_);
  AddCounter(metrics, "failures_total", "Parts of guest memory that the host did not free",
             failures_);
}

}  // namespace bulkhead::devices::virtio
