// Has a block device write zeroes by itself, as fallocate and mkfs do: busybox cannot.
// usage: blkzeroout DEVICE OFFSET LENGTH      (bytes; multiples of the block size)
// The kernel sends WRITE_ZEROES where the device offers it, else it writes pages of zeroes.

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

// Whether the whole text is a decimal number.
bool ParseNumber(const char* text, uint64_t& number) {
  char* end;
  errno = 0;
  number = std::strtoull(text, &end, 10);
  return errno == 0 && end != text && *end == '\0' && text[0] != '-';
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t range[2];
  if (argc != 4 || !ParseNumber(argv[2], range[0]) || !ParseNumber(argv[3], range[1])) {
    std::fprintf(stderr, "usage: blkzeroout DEVICE OFFSET LENGTH\n");
    return 2;
  }
  const int device = open(argv[1], O_RDWR | O_CLOEXEC);
  if (device < 0) {
    std::fprintf(stderr, "blkzeroout: %s: %s\n", argv[1], std::strerror(errno));
    return 1;
  }
  if (ioctl(device, BLKZEROOUT, range) != 0) {
    std::fprintf(stderr, "blkzeroout: %s, %" PRIu64 " bytes at %" PRIu64 ": %s\n", argv[1],
                 range[1], range[0], std::strerror(errno));
    return 1;
  }
  return 0;
}
