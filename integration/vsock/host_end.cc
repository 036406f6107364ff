#include "integration/vsock/host_end.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace bulkhead::integration {
namespace {

constexpr int kHangMs = 180'000;

sockaddr_un Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

bool Wait(const UniqueFd& fd, int16_t events) {
  pollfd entry = {.fd = fd.get(), .events = events, .revents = 0};
  if (poll(&entry, 1, kHangMs) == 1) return true;
  ADD_FAILURE() << "a connection hangs";
  return false;
}

bool CheckEchoOf(const UniqueFd& fd, size_t total, const std::atomic<bool>* ending, uint32_t seed,
                 std::atomic<uint64_t>& checked) {
  std::minstd_rand out(seed);
  std::minstd_rand back(seed);
  size_t sent = 0;
  size_t received = 0;
  char bytes[8192];
  bool has_ended = false;
  for (;;) {
    if (ending != nullptr && *ending) total = sent;
    if (sent == total && !has_ended) {
      has_ended = true;
      shutdown(fd.get(), SHUT_WR);
    }
    const bool sends = sent < total && sent - received < 100'000;
    if (!Wait(fd, static_cast<int16_t>(POLLIN | (sends ? POLLOUT : 0)))) return false;
    if (sends) {
      const std::minstd_rand before = out;
      const size_t size = std::min(sizeof(bytes), total - sent);
      for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(out() >> 8);
      const ssize_t n = send(fd.get(), bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return false;
      out = before;
      for (ssize_t i = 0; i < n; ++i) out();
      sent += static_cast<size_t>(std::max<ssize_t>(n, 0));
    }
    const ssize_t n = recv(fd.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n == 0) return received == total;
    if (n < 0 && errno != EAGAIN) return false;
    for (ssize_t i = 0; i < n; ++i) {
      if (bytes[i] == static_cast<char>(back() >> 8)) continue;
      ADD_FAILURE() << "byte " << received + static_cast<size_t>(i) << " is wrong";
      return false;
    }
    received += static_cast<size_t>(std::max<ssize_t>(n, 0));
    checked += static_cast<uint64_t>(std::max<ssize_t>(n, 0));
  }
}

}  // namespace

UniqueFd ListenAt(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(path);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0)
      << path;
  EXPECT_EQ(listen(fd.get(), 128), 0);
  return fd;
}

UniqueFd ConnectTo(const std::string& path, int flags) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  const sockaddr_un address = Address(path);
  const int error = connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  return error == 0 ? std::move(fd) : UniqueFd();
}

EchoServer::EchoServer(const std::string& path) : listening_(ListenAt(path)) {
  thread_ = std::thread([this] {
    for (;;) {
      UniqueFd connection(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!connection.ok()) return;
      ++accepted_;
      workers_.emplace_back(&EchoServer::EchoAll, this, std::move(connection));
    }
  });
}

EchoServer::~EchoServer() {
  shutdown(listening_.get(), SHUT_RDWR);
  thread_.join();
  for (std::thread& worker : workers_) worker.join();
}

void EchoServer::EchoAll(UniqueFd connection) {
  char bytes[16'384];
  for (;;) {
    const ssize_t size = recv(connection.get(), bytes, sizeof(bytes), 0);
    if (size <= 0) return;
    for (ssize_t done = 0; done < size;) {
      const ssize_t n = send(connection.get(), bytes + done, size - done, MSG_NOSIGNAL);
      if (n <= 0) return;
      done += n;
    }
    echoed_ += static_cast<uint64_t>(size);
  }
}

UniqueFd ConnectToGuest(const std::string& path, uint32_t port) {
  UniqueFd fd = ConnectTo(path, /*flags=*/0);
  EXPECT_TRUE(fd.ok()) << path << ": " << strerror(errno);
  const std::string line = absl::StrCat("CONNECT ", port, "\n");
  if (send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL) < 0) return UniqueFd();
  std::string answer;
  while (answer.empty() || answer.back() != '\n') {
    char byte;
    if (!Wait(fd, POLLIN) || recv(fd.get(), &byte, 1, 0) <= 0) return UniqueFd();
    answer.push_back(byte);
  }
  uint32_t host_port = 0;
  EXPECT_TRUE(answer.substr(0, 3) == "OK " && absl::SimpleAtoi(answer.substr(3), &host_port))
      << answer;
  return fd;
}

bool CheckEcho(const UniqueFd& fd, size_t total, uint32_t seed, std::atomic<uint64_t>& checked) {
  return CheckEchoOf(fd, total, /*ending=*/nullptr, seed, checked);
}

bool CheckEchoUntil(const UniqueFd& fd, const std::atomic<bool>& ending, uint32_t seed,
                    std::atomic<uint64_t>& checked) {
  return CheckEchoOf(fd, std::numeric_limits<size_t>::max(), &ending, seed, checked);
}

void ExpectWholeEcho(const std::string& path, uint32_t port, size_t total,
                     std::atomic<uint64_t>& checked) {
  for (int i = 0; i < 3; ++i) {
    const UniqueFd fd = ConnectToGuest(path, port);
    if (fd.ok() && CheckEcho(fd, total, 77, checked)) return;
  }
  ADD_FAILURE() << "no connection to port " << port << " of the guest lasts";
}

}  // namespace bulkhead::integration
