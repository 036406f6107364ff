#ifndef BULKHEAD_INTEGRATION_TESTBED_WIRE_H_
#define BULKHEAD_INTEGRATION_TESTBED_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The protocol between the launcher (on the host) and the agent (PID 1 of the testbed) on one
// virtio serial port: frames of {payload length, type} and the payload. Both ends are built from
// one tree and trust each other; the checks here find bugs, not attacks. Integers are
// little-endian, as both ends are x86.
namespace bulkhead::testbed {

enum class FrameType : uint32_t {
  // Launcher to agent.
  kStart = 1,       // StartRequest; the first frame, once
  kStdin = 2,       // bytes; at most kStdinWindow unacknowledged
  kStdinEnd = 3,    // end of file
  kWindowSize = 4,  // WindowSize
  // Agent to launcher.
  kBooted = 16,      // empty: waits for kStart; the moment for a snapshot
  kReady = 17,       // text: how long each step took; the command starts now
  kStdout = 18,      // bytes
  kStderr = 19,      // bytes
  kStdinTaken = 20,  // uint32_t: so many bytes of standard input were passed on
  kExit = 21,        // uint32_t: exit code as a shell has it; the last frame
  kFailed = 22,      // text: the testbed itself failed; the last frame
};

inline constexpr size_t kMaxPayload = size_t{4} << 20;    // a large environment fits
inline constexpr size_t kStdinWindow = size_t{64} << 10;  // what one pipe holds by default
inline constexpr char kPortName[] = "bulkhead.testbed";   // of the virtio serial port

struct WindowSize {
  uint16_t rows = 0;
  uint16_t columns = 0;
};

struct StartRequest {
  bool terminal = false;  // a pseudo-terminal instead of three pipes
  WindowSize window;
  int64_t unix_time_ns = 0;  // the host's clock
  std::string entropy;       // else all that start from one snapshot draw the same random bytes
  std::string directory;
  std::vector<std::string> command;
  std::vector<std::string> environment;       // NAME=value
  std::vector<std::string> writable_folders;  // the n-th is the 9p share ShareTag(n)
};

std::string ShareTag(size_t index);
inline constexpr char kRootTag[] = "root";  // the 9p share of the host's root

std::string EncodeStart(const StartRequest& request);
// Errors: InvalidArgument (malformed).
absl::StatusOr<StartRequest> DecodeStart(absl::string_view payload);

struct Frame {
  FrameType type;
  std::string payload;
};

void AppendFrame(FrameType type, absl::string_view payload, std::string& output);
void AppendFrame(FrameType type, uint32_t value, std::string& output);
// Errors: InvalidArgument (not four bytes).
absl::StatusOr<uint32_t> DecodeNumber(absl::string_view payload);

// Cuts a stream of bytes into frames. Thread-compatible.
class FrameReader {
 public:
  void Append(absl::string_view bytes) { buffer_.append(bytes.data(), bytes.size()); }
  // The next whole frame. Errors: Unavailable (none yet), InvalidArgument (too long).
  absl::StatusOr<Frame> Next();

 private:
  std::string buffer_;
};

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_WIRE_H_
