#ifndef BULKHEAD_VMM_CONSOLE_DEVICE_STREAM_H_
#define BULKHEAD_VMM_CONSOLE_DEVICE_STREAM_H_

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "proto/console_stream.h"

namespace bulkhead::vmm {

// The vmm's side of proto/console_stream.h, without the socket: finds the new bytes of a packet,
// and the input to send, or to send again. A hostile device can garble only its own stream.
// Thread-compatible.
class DeviceStream {
 public:
  static constexpr size_t kMaxKeptInput = 64 * 1024;
  static constexpr size_t kMaxPacketBytes = sizeof(ConsolePacketHeader) + kMaxConsoleBytes;

  // `device_name`: for the log.
  explicit DeviceStream(std::string device_name) : device_name_(std::move(device_name)) {}

  // A new process connects. It is sent nothing until its first packet has stated its positions.
  void Connect();

  // Takes a packet; returns its new output, a part of `packet`.
  absl::string_view Receive(absl::string_view packet);

  // Bytes of input that are not acknowledged yet.
  size_t kept_input() const { return kept_.size(); }
  size_t input_room() const { return kMaxKeptInput - kept_.size(); }
  // Takes as many bytes as there is room for, and returns their number.
  size_t AddInput(absl::string_view bytes);

  // Sets `packet` to the next one to send. False: there is none.
  bool NextPacket(std::string& packet) const;
  // Call it once `packet`, the last of NextPacket(), is sent.
  void PacketSent(absl::string_view packet);

 private:
  absl::string_view NewOutput(uint64_t position, absl::string_view data);
  void TakeAcknowledgement(uint64_t position);
  // Logs one line for each process at most.
  void Report(absl::string_view problem);

  std::string device_name_;
  uint64_t received_ = 0;      // bytes of output
  uint64_t acknowledged_ = 0;  // bytes of input; the position of the first one in kept_
  std::string kept_;
  size_t sent_ = 0;       // of kept_, to this process
  size_t ever_sent_ = 0;  // of kept_, to any process: what may be acknowledged
  bool greeted_ = false;  // the process has sent its first packet
  bool answer_due_ = false;
  bool reported_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_DEVICE_STREAM_H_
