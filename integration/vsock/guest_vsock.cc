// Streams of AF_VSOCK between the guest and programs of its host, for tests: busybox has none.
//
// usage: vsock serve PORT                      echoes what clients send, until SIGTERM
//        vsock call PORT CONNECTIONS BYTES     so many connections to the host at once; each sends
//                                              so many bytes and checks their echo
//        vsock storm PORT CONNECTIONS          the same again and again, until SIGTERM
//
// Prints "vsock: running", and at the end one line of figures. A connection without a byte or an
// end for three minutes hangs. Exit code 0: no byte was wrong, nothing hung, no error but those of
// a reset; of "call", each connection was whole.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
// After sys/socket.h.
#include <linux/vm_sockets.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace {

constexpr int kHangMs = 180'000;
constexpr size_t kWindowBytes = 100'000;
constexpr size_t kStormBytes = 100'000;

std::atomic<bool> stopping{false};

struct Figures {
  std::atomic<uint64_t> open{0};     // connections now
  std::atomic<uint64_t> whole{0};    // ended in order
  std::atomic<uint64_t> reset{0};    // ended with ECONNRESET
  std::atomic<uint64_t> cut{0};      // ended early otherwise
  std::atomic<uint64_t> refused{0};  // connect() failed: reset, or no answer
  std::atomic<uint64_t> hung{0};
  std::atomic<uint64_t> wrong{0};  // connections with a wrong byte
  std::atomic<uint64_t> other{0};  // other errors
  std::atomic<uint64_t> bytes{0};  // echoed, or checked
} figures;

int NewSocket() {
  const int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    perror("vsock: socket");
    exit(1);
  }
  return fd;
}

sockaddr_vm Address(unsigned cid, unsigned port) {
  sockaddr_vm address = {};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return address;
}

// Counts how a connection failed. A socket that was reset fails with that once, then otherwise.
void CountFailure(int fd, int error) {
  int pending = 0;
  socklen_t size = sizeof(pending);
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &pending, &size);
  if (error == ECONNRESET || pending == ECONNRESET) {
    ++figures.reset;
  } else if (error == EPIPE || error == ENOTCONN) {
    ++figures.cut;
  } else {
    ++figures.other;
    fprintf(stderr, "vsock: %s, pending: %s\n", strerror(error), strerror(pending));
  }
}

bool Wait(int fd, short events) {
  pollfd entry = {.fd = fd, .events = events, .revents = 0};
  if (poll(&entry, 1, kHangMs) == 1) return true;
  ++figures.hung;
  return false;
}

// Sends back all that comes, and the end. A client may be silent for as long as it likes.
void Echo(int fd) {
  char bytes[16'384];
  for (;;) {
    const ssize_t size = recv(fd, bytes, sizeof(bytes), 0);
    if (size == 0) {
      ++figures.whole;
      return;
    }
    if (size < 0) return CountFailure(fd, errno);
    for (ssize_t done = 0; done < size;) {
      if (!Wait(fd, POLLOUT)) return;
      const ssize_t n = send(fd, bytes + done, size_t(size - done), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return CountFailure(fd, errno);
      if (n > 0) done += n;
    }
    figures.bytes += size_t(size);
  }
}

class Pattern {
 public:
  explicit Pattern(uint32_t seed) : state_(seed) {}
  char Next() { return char((state_ = state_ * 1664525 + 1013904223) >> 24); }

 private:
  uint32_t state_;
};

// Sends `total` bytes and the end, and checks that they and the end come back.
void CheckEcho(int fd, size_t total, uint32_t seed) {
  Pattern out(seed), back(seed);
  size_t sent = 0, received = 0;
  char bytes[8192];
  for (;;) {
    const bool sends = sent < total && sent - received < kWindowBytes;
    if (!Wait(fd, short(POLLIN | (sends ? POLLOUT : 0)))) return;
    if (sends) {
      const Pattern before = out;
      const size_t size = std::min(sizeof(bytes), total - sent);
      for (size_t i = 0; i < size; ++i) bytes[i] = out.Next();
      const ssize_t n = send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return CountFailure(fd, errno);
      out = before;
      for (ssize_t i = 0; i < n; ++i) out.Next();
      sent += size_t(std::max<ssize_t>(n, 0));
      if (sent == total) shutdown(fd, SHUT_WR);
    }
    const ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n == 0) {
      ++(received == total ? figures.whole : figures.cut);
      return;
    }
    if (n < 0 && errno != EAGAIN) return CountFailure(fd, errno);
    for (ssize_t i = 0; i < n; ++i) {
      if (bytes[i] == back.Next()) continue;
      ++figures.wrong;
      fprintf(stderr, "vsock: byte %zu is wrong\n", received + size_t(i));
      return;
    }
    received += size_t(std::max<ssize_t>(n, 0));
    figures.bytes += size_t(std::max<ssize_t>(n, 0));
  }
}

void Call(unsigned port, size_t bytes, uint32_t seed, bool is_patient) {
  const int fd = NewSocket();
  // Else two seconds, which a busy host may take.
  const timeval limit = {.tv_sec = kHangMs / 1000, .tv_usec = 0};
  if (is_patient) {
    setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &limit, sizeof(limit));
  }
  const sockaddr_vm address = Address(VMADDR_CID_HOST, port);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    CheckEcho(fd, bytes, seed);
  } else if (errno == ECONNRESET || errno == ETIMEDOUT) {
    ++figures.refused;
  } else {
    ++figures.other;
    perror("vsock: connect");
  }
  close(fd);
}

void AwaitSigterm() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  int signal;
  sigwait(&set, &signal);
}

[[noreturn]] void Serve(unsigned port) {
  const int listening = NewSocket();
  const sockaddr_vm address = Address(VMADDR_CID_ANY, port);
  if (bind(listening, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listening, 128) != 0) {
    perror("vsock: listen");
    exit(1);
  }
  for (;;) {
    const int fd = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) {
      perror("vsock: accept");
      exit(1);
    }
    ++figures.open;
    std::thread([fd] {
      Echo(fd);
      close(fd);
      --figures.open;
    }).detach();
  }
}

void Report() {
  const Figures& f = figures;
  printf(
      "vsock: open=%lu whole=%lu reset=%lu cut=%lu refused=%lu hung=%lu wrong=%lu other=%lu "
      "bytes=%lu\n",
      f.open.load(), f.whole.load(), f.reset.load(), f.cut.load(), f.refused.load(), f.hung.load(),
      f.wrong.load(), f.other.load(), f.bytes.load());
  fflush(stdout);
}

bool IsGood() { return figures.hung + figures.wrong + figures.other + figures.open == 0; }

int Usage() {
  fprintf(stderr,
          "usage: vsock serve PORT | call PORT CONNECTIONS BYTES | storm PORT CONNECTIONS\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return Usage();
  const unsigned port = unsigned(strtoul(argv[2], nullptr, 10));
  // Threads inherit it: SIGTERM is for sigwait().
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  printf("vsock: running\n");
  fflush(stdout);
  if (strcmp(argv[1], "serve") == 0 && argc == 3) {
    std::thread([port] { Serve(port); }).detach();
    AwaitSigterm();
    // What hangs has no end.
    for (int i = 0; i < kHangMs / 10 && figures.open > 0; ++i) usleep(10'000);
    Report();
    _exit(IsGood() ? 0 : 1);
  }
  const bool is_storm = strcmp(argv[1], "storm") == 0 && argc == 4;
  if (!is_storm && !(strcmp(argv[1], "call") == 0 && argc == 5)) return Usage();
  const uint32_t connections = uint32_t(strtoul(argv[3], nullptr, 10));
  const size_t bytes = is_storm ? kStormBytes : strtoul(argv[4], nullptr, 10);
  std::vector<std::thread> callers;
  for (uint32_t i = 0; i < connections; ++i) {
    callers.emplace_back([=] {
      uint32_t seed = i + 1;
      do {
        Call(port, bytes, seed, /*is_patient=*/!is_storm);
        seed += connections;
      } while (is_storm && !stopping);
    });
  }
  if (is_storm) {
    AwaitSigterm();
    stopping = true;
  }
  for (std::thread& caller : callers) caller.join();
  Report();
  const bool all_whole = is_storm || figures.whole == connections;
  return IsGood() && all_whole ? 0 : 1;
}
