// A disk as a back end that keeps a record of requests in flight:
// block_back_end SOCKET FILE [readonly]. Serves one connection after the other, for ever.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "devices/vhost_user/protocol.h"
#include "devices/vhost_user/testing/test_back_end.h"

namespace bulkhead::devices::vhost_user {
namespace {

constexpr uint32_t kRead = 0;
constexpr uint32_t kWrite = 1;
constexpr uint32_t kFlush = 4;

// virtio 1.2, section 5.2.6. What is no request gets an error, if there is room for it. Header and
// result are never split: drivers do that, and tests need it no more.
uint32_t Serve(int disk, const std::vector<iovec>& readable, const std::vector<iovec>& writable) {
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header;
  if (writable.empty() || writable.back().iov_len == 0) return 0;
  if (readable.empty() || readable[0].iov_len < sizeof(header)) {
    *static_cast<uint8_t*>(writable.back().iov_base) = 1;
    return 1;
  }
  memcpy(&header, readable[0].iov_base, sizeof(header));
  off_t offset = static_cast<off_t>(header.sector * 512);
  uint32_t written = 1;
  bool good = true;
  const auto carry = [&](const iovec& buffer, auto call) {
    const auto size = static_cast<ssize_t>(buffer.iov_len);
    good = good && call(disk, buffer.iov_base, buffer.iov_len, offset) == size;
    offset += size;
  };
  if (header.type == kRead) {
    for (size_t i = 0; i + 1 < writable.size(); ++i) {
      carry(writable[i], pread);
      written += static_cast<uint32_t>(writable[i].iov_len);
    }
  } else if (header.type == kWrite) {
    for (size_t i = 1; i < readable.size(); ++i) carry(readable[i], pwrite);
  } else {
    good = header.type == kFlush && fdatasync(disk) == 0;
  }
  *static_cast<uint8_t*>(writable.back().iov_base) = good ? 0 : 1;
  return written;
}

int Main(const char* path, const char* file, bool read_only) {
  const UniqueFd disk(open(file, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  struct stat info = {};
  if (fstat(disk.get(), &info) != 0) return 1;
  std::vector<uint8_t> config(60);
  const uint64_t sectors = static_cast<uint64_t>(info.st_size) / 512;
  memcpy(config.data(), &sectors, sizeof(sectors));
  unlink(path);
  const UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
  if (bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener.get(), 4) != 0) {
    perror(path);
    return 1;
  }
  constexpr uint64_t kHasFlush = uint64_t{1} << 9;
  while (true) {
    UniqueFd connection(accept(listener.get(), nullptr, nullptr));
    TestBackEnd::Options options;
    options.features |= kHasFlush;
    options.protocol_features = kProtocolReplyAck | kProtocolConfig | kProtocolInFlight;
    options.config = config;
    options.serve = [&disk](const auto& readable, const auto& writable) {
      return Serve(disk.get(), readable, writable);
    };
    TestBackEnd(std::move(options), std::move(connection)).AwaitEnd();
  }
}

}  // namespace
}  // namespace bulkhead::devices::vhost_user

int main(int argc, char** argv) {
  const bool read_only = argc == 4 && strcmp(argv[3], "readonly") == 0;
  if (argc != 3 && !read_only) return 2;
  return bulkhead::devices::vhost_user::Main(argv[1], argv[2], read_only);
}
