#include "vmm/console/device_stream.h"

#include <string.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace bulkhead::vmm {

void DeviceStream::Connect() {
  greeted_ = false;
  answer_due_ = false;
  sent_ = 0;
  reported_ = false;
}

absl::string_view DeviceStream::Receive(absl::string_view packet) {
  ConsolePacketHeader header;
  if (packet.size() < sizeof(header) || packet.size() > kMaxPacketBytes) {
    Report(absl::StrCat("a packet of ", packet.size(), " bytes"));
    return {};
  }
  memcpy(&header, packet.data(), sizeof(header));
  const absl::string_view data = packet.substr(sizeof(header));
  if (data.empty() && header.position == kConsolePositionUnknown) {
    greeted_ = true;
    answer_due_ = true;
    sent_ = 0;
    return {};
  }
  if (!greeted_ && !data.empty()) {
    Report("output before its first packet without data");
    return {};
  }
  TakeAcknowledgement(header.acknowledged);
  greeted_ = true;
  return data.empty() ? data : NewOutput(header.position, data);
}

absl::string_view DeviceStream::NewOutput(uint64_t position, absl::string_view data) {
  // Modulo 2^64: no position of a hostile device overflows anything.
  const uint64_t behind = received_ - position;
  if (behind > kMaxConsoleRepeatBytes) {
    Report(absl::StrCat("output at position ", position, " instead of ", received_));
    received_ = position;  // a successor may be honest again
  } else {
    data.remove_prefix(std::min<uint64_t>(behind, data.size()));
  }
  received_ += data.size();
  return data;
}

void DeviceStream::TakeAcknowledgement(uint64_t position) {
  const uint64_t count = position - acknowledged_;
  if (count > ever_sent_) {
    Report(absl::StrCat("an acknowledgement of ", position, " bytes, instead of ", acknowledged_,
                        " to ", acknowledged_ + ever_sent_));
    return;
  }
  kept_.erase(0, count);
  acknowledged_ += count;
  ever_sent_ -= count;
  sent_ -= std::min<uint64_t>(sent_, count);
}

size_t DeviceStream::AddInput(absl::string_view bytes) {
  const size_t count = std::min(bytes.size(), input_room());
  kept_.append(bytes.data(), count);
  return count;
}

bool DeviceStream::NextPacket(std::string& packet) const {
  if (!greeted_ || (!answer_due_ && sent_ == kept_.size())) return false;
  const size_t size = answer_due_ ? 0 : std::min(kMaxConsoleBytes, kept_.size() - sent_);
  const ConsolePacketHeader header = {.position = acknowledged_ + sent_, .acknowledged = received_};
  packet.assign(reinterpret_cast<const char*>(&header), sizeof(header));
  packet.append(kept_, sent_, size);
  return true;
}

void DeviceStream::PacketSent(absl::string_view packet) {
  answer_due_ = false;  // an answer, or data after it
  sent_ += packet.size() - sizeof(ConsolePacketHeader);
  ever_sent_ = std::max(ever_sent_, sent_);
}

void DeviceStream::Report(absl::string_view problem) {
  if (reported_) return;
  reported_ = true;
  LogWarning(
      absl::StrCat("device '", device_name_, "' breaks the protocol of its console: ", problem));
}

}  // namespace bulkhead::vmm
