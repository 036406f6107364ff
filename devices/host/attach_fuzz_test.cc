// Fuzzes what a device process does with an AttachRequest. An input is the message, serialised or
// (as in attach_corpus/) in text format; as many descriptors as it announces come with it.
#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/memory_mapping.h"
#include "base/message_socket.h"
#include "base/testing/fuzz_input.h"
#include "devices/host/attachment.h"
#include "google/protobuf/text_format.h"
#include "proto/attach.pb.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {
namespace {

v1::DeviceInfo Device() {
  v1::DeviceInfo info;
  info.mutable_pci()->set_msix_vectors(2);
  info.mutable_pci()->set_has_intx(true);
  info.set_uses_dma(true);
  info.add_doorbells();
  info.add_required_resources("disk");
  return info;
}

// What is accepted must be whole and usable.
void Use(const Attachment& attachment) {
  Require(attachment.doorbells.size() == 1 && attachment.msix_vectors.size() == 2);
  Require(attachment.request_memory.ok() && attachment.response_memory.ok());
  Require(attachment.completion_events.size() == attachment.channel.waiters());
  const absl::StatusOr<GuestMemory> memory = MapGuestMemory(attachment.guest_memory);
  if (!memory.ok()) return;
  for (const GuestMemory::Range& range : memory->ranges()) {
    range.mapping.data()[0] = 1;
    range.mapping.data()[range.mapping.size() - 1] = 1;
  }
}

}  // namespace
}  // namespace bulkhead::devices

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead;           // NOLINT: the entry point cannot be in the namespace
  using namespace bulkhead::devices;  // NOLINT
  google::protobuf::SetLogHandler(nullptr);
  SocketMessage message = {.bytes = std::string(reinterpret_cast<const char*>(data), size),
                           .descriptors = {}};
  v1::AttachRequest request;
  if (google::protobuf::TextFormat::ParseFromString(message.bytes, &request)) {
    request.set_contract_version(kContractVersion);
    message.bytes = request.SerializeAsString();
  } else if (!request.ParseFromString(message.bytes)) {
    request.Clear();
  }
  const int count = std::min(request.descriptors_size(), 64);
  for (int i = 0; i < count; ++i) message.descriptors.push_back(*CreateMemfd("fuzz", 64 * 1024));
  const absl::StatusOr<Attachment> attachment = ParseAttachRequest(Device(), std::move(message));
  if (attachment.ok()) Use(*attachment);
  return 0;
}
