#ifndef BULKHEAD_VMM_CONSOLE_DEVICE_STREAM_H_
#define BULKHEAD_VMM_CONSOLE_DEVICE_STREAM_H_

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"
#include "proto/console_stream.h"

namespace bulkhead::vmm {

// The vmm's side of proto/console_stream.h, without the socket: which bytes of a packet are new,
// and which input is still to be sent, or to be sent again. The device is hostile: nothing that it
// sends does more than to garble its own stream. Thread-compatible.
class DeviceStream {
 public:
  static constexpr size_t kMaxKeptInput = 64 * 1024;
  static constexpr size_t kMaxPacketBytes = sizeof(ConsolePacketHeader) + kMaxConsoleBytes;

  // What comes from now on is of a new process; it is sent nothing until it has said where it is.
  void Connect();

  // Takes a packet; returns what of its output is new, as a part of it.
  absl::string_view Receive(absl::string_view packet);

  // Input that is kept, because it is not acknowledged.
  size_t kept_input() const { return kept_.size(); }
  size_t input_room() const { return kMaxKeptInput - kept_.size(); }
  // Takes as much as there is room for. How many bytes that is.
  size_t AddInput(absl::string_view bytes);

  // The packet to be sent next. False: there is none.
  bool NextPacket(std::string& packet) const;
  // `packet`, which NextPacket() gave last, is sent.
  void PacketSent(absl::string_view packet);

 private:
  absl::string_view NewOutput(uint64_t position, absl::string_view data);
  void TakeAcknowledgement(uint64_t position);
  // At most one line for each process.
  void Report(absl::string_view problem);

  uint64_t received_ = 0;      // bytes of output, for good
  uint64_t acknowledged_ = 0;  // bytes of input; the position of the first one in kept_
  std::string kept_;
  size_t sent_ = 0;       // of kept_, to this process
  size_t ever_sent_ = 0;  // of kept_, to any process: what may be acknowledged
  bool greeted_ = false;  // the process's first packet has come
  bool answer_due_ = false;
  bool reported_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_DEVICE_STREAM_H_
