#ifndef BULKHEAD_VMM_USER_NET_RELAY_H_
#define BULKHEAD_VMM_USER_NET_RELAY_H_

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "vmm/config/program_report.h"

namespace bulkhead::vmm {

// Passes Ethernet frames between a network device and a program that has a network for it, such as
// passt. Both are untrusted.
//
// The device has a SOCK_SEQPACKET socket on which frames are as on a TAP: one a packet, behind a
// virtio-net header of 12 bytes, which says nothing. The program has a SOCK_STREAM socket: each
// frame behind its length, four bytes, big-endian. Where one side takes nothing, the other waits.
// Without a program the device's frames are dropped.
class Relay {
 public:
  // Borrows `lost`, to which it adds.
  explicit Relay(LostFrames& lost);
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // Take non-blocking sockets, in place of those before. What the device before has sent still goes
  // to the program, as far as there is room. A new program is first given the last ARP packet that
  // a device has sent: else it would not know where the guest is, until that sends something.
  void SetDevice(int socket);
  void SetProgram(int socket);

  int device() const { return device_; }
  int program() const { return program_; }
  // For poll(2): what to wait for.
  int16_t device_events() const;
  int16_t program_events() const;
  // Passes on what can be. `...events`: what poll(2) has returned. A side that ends
  // or breaks the rules is left: device() or program() is -1.
  void Serve(int16_t device_events, int16_t program_events);

 private:
  void TakeFromDevice();
  // A frame of the device, when `out_` is empty.
  void GiveToProgram(const uint8_t* frame, uint32_t size);
  void Flush();
  void TakeFromProgram();
  void GiveToDevice();
  // Bytes of the frame at the front of `in_`; 0: it is not whole. Leaves a program that lies.
  uint32_t FrontFrame();
  // The same, and leaves nobody.
  uint32_t WholeFrame(bool* is_lie = nullptr) const;
  void LeaveProgram();
  void LeaveDevice();

  LostFrames& lost_;
  int device_ = -1;
  int program_ = -1;
  std::vector<uint8_t> packet_;  // from the device: header and frame
  std::vector<uint8_t> out_;     // [out_begin_, out_end_): for the program, less than one frame
  size_t out_begin_ = 0;
  size_t out_end_ = 0;
  std::vector<uint8_t> arp_;  // the last such frame of a device
  std::vector<uint8_t> in_;   // [in_begin_, in_end_): from the program
  size_t in_begin_ = 0;
  size_t in_end_ = 0;
  bool device_is_full_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_USER_NET_RELAY_H_
