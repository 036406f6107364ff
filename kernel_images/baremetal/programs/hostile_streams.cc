#include "kernel_images/baremetal/programs/hostile_streams.h"

#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/programs/hostile_choice.h"
#include "kernel_images/baremetal/programs/hostile_functions.h"

namespace bulkhead::guest::hostile {

uint32_t WriteFrame(uint64_t at) {
  constexpr uint8_t kKinds[] = {0, 1, 4, 0x81};  // of segments: none, TCP, UDP...
  const bool segments = OneIn(2);
  *reinterpret_cast<NetHeader*>(at) = {static_cast<uint8_t>(segments  ? 1
                                                            : Flaw(4) ? SomeValue()
                                                                      : 0),
                                       static_cast<uint8_t>(!segments ? 0
                                                            : Flaw(4) ? SomeValue()
                                                                      : kKinds[Below(4)]),
                                       static_cast<uint16_t>(Flaw(4) ? SomeValue() : 54),
                                       static_cast<uint16_t>(Flaw(4)    ? SomeValue()
                                                             : segments ? 1000
                                                                        : 0),
                                       static_cast<uint16_t>(Flaw(4) ? SomeValue() : 34),
                                       static_cast<uint16_t>(Flaw(4) ? SomeValue() : 16),
                                       0};
  const uint32_t size = Flaw(8) ? BufferLength() : static_cast<uint32_t>(60 + Below(1440));
  auto* const frame = reinterpret_cast<uint8_t*>(at + sizeof(NetHeader));
  memset(frame, 0xff, 6);  // to all
  memset(frame + 6, 2, 6);
  frame[12] = 0x08;  // IPv4
  frame[13] = 0x00;
  frame[14] = 0x45;
  frame[23] = 6;  // TCP
  return static_cast<uint32_t>(sizeof(NetHeader)) + size;
}

uint32_t WritePacket(uint64_t at, uint32_t cid) {
  const uint32_t data = OneIn(2) ? 0 : static_cast<uint32_t>(Below(4096));
  *reinterpret_cast<VsockHeader*>(at) = {
      .source_cid = Flaw(16) ? static_cast<uint32_t>(SomeValue()) : cid,
      .source_cid_high = Flaw(30) ? 1u : 0,
      .destination_cid = Flaw(16) ? static_cast<uint32_t>(SomeValue()) : kHostCid,
      .destination_cid_high = 0,
      // So few that much is about connections there are.
      .source_port = static_cast<uint32_t>(Below(8)),
      .destination_port = static_cast<uint32_t>(Below(6)),
      .length = Flaw(8) ? BufferLength() : data,
      .type = static_cast<uint16_t>(Flaw(16) ? SomeValue() : 1),
      .operation = static_cast<uint16_t>(Flaw(16) ? SomeValue() : 1 + Below(7)),
      .flags = static_cast<uint32_t>(Flaw(8) ? SomeValue() : Below(4)),
      .buffer = static_cast<uint32_t>(Flaw(4) ? SomeValue() : 65536),
      .forwarded = static_cast<uint32_t>(Flaw(4) ? SomeValue() : 0)};
  return static_cast<uint32_t>(sizeof(VsockHeader)) + data;
}

}  // namespace bulkhead::guest::hostile
