#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_STREAMS_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_STREAMS_H_

#include <stdint.h>

// What hostile_driver sends: right, but for some flaws (hostile_choice.h). Each returns its size,
// of which all or only the begin is written at the address `at`.

namespace bulkhead::guest::hostile {

// A frame of a network device, with its header.
uint32_t WriteFrame(uint64_t at);

// A packet of a vsock device. `cid`: the guest's.
uint32_t WritePacket(uint64_t at, uint32_t cid);

}  // namespace bulkhead::guest::hostile

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_STREAMS_H_
