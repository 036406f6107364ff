#ifndef BULKHEAD_BASE_TESTING_STREAM_ENDS_H_
#define BULKHEAD_BASE_TESTING_STREAM_ENDS_H_

#include <fcntl.h>
#include <pty.h>
#include <sys/socket.h>
#include <termios.h>

#include <utility>

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

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_STREAM_ENDS_H_
