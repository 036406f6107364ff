#ifndef BULKHEAD_BASE_TESTING_STREAMS_H_
#define BULKHEAD_BASE_TESTING_STREAMS_H_

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/socket.h>
#include <termios.h>

#include <string>
#include <utility>

#include "absl/time/time.h"
#include "base/pipe.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead {

// The two ends of each kind of stream that a program may be given. `direction`: O_RDONLY or
// O_WRONLY, what the code under test does with its end. All block.
struct StreamEnds {
  UniqueFd ours;  // for the code under test
  UniqueFd other;
};

inline StreamEnds MakePipe(int direction) {
  Pipe pipe = *CreatePipe();
  if (direction == O_RDONLY) std::swap(pipe.read_end, pipe.write_end);
  return {std::move(pipe.write_end), std::move(pipe.read_end)};
}

inline StreamEnds MakeSocketPair(int /*direction*/) {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

inline StreamEnds MakeTerminal(int /*direction*/) {
  int ours = -1;
  int other = -1;
  termios raw = {};
  cfmakeraw(&raw);
  EXPECT_EQ(openpty(&other, &ours, nullptr, &raw, nullptr), 0);
  return {UniqueFd(ours), UniqueFd(other)};
}

// Whether `fd` is readable, or becomes so within `timeout`.
inline bool IsReadable(int fd, absl::Duration timeout = absl::ZeroDuration()) {
  pollfd polled = {.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout))) == 1;
}

// "abc...zab...": a text in which lost and repeated bytes show.
inline std::string Letters(size_t count, char first = 'a') {
  std::string text;
  while (text.size() < count) text.push_back(static_cast<char>(first + text.size() % 26));
  return text;
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_STREAMS_H_
