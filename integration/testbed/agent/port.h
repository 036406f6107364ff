#ifndef BULKHEAD_INTEGRATION_TESTBED_AGENT_PORT_H_
#define BULKHEAD_INTEGRATION_TESTBED_AGENT_PORT_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "integration/testbed/wire.h"

namespace bulkhead::testbed {

// The agent's end of the virtio serial port to the launcher. Thread-compatible.
class Port {
 public:
  // Opens the port; the kernel announces it a moment after its driver is loaded.
  // Errors: DeadlineExceeded (there is none).
  static absl::StatusOr<Port> Open();

  // Readable (POLLIN) when Read() does not block.
  int fd() const { return fd_.get(); }

  // Blocks while the launcher does not read. Errors: as write(2).
  absl::Status Send(FrameType type, absl::string_view payload);
  absl::Status Send(FrameType type, uint32_t number);

  // Reads once; blocks while there is nothing. Errors: Unavailable (the launcher is gone).
  absl::Status Read();
  // The next frame among what was read. Errors: Unavailable (none), InvalidArgument.
  absl::StatusOr<Frame> Next() { return reader_.Next(); }

 private:
  explicit Port(UniqueFd fd) : fd_(std::move(fd)) {}
  absl::Status Flush();

  UniqueFd fd_;
  FrameReader reader_;
  std::string outgoing_;
};

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_AGENT_PORT_H_
