#ifndef BULKHEAD_VMM_BOOT_LOADER_DISK_H_
#define BULKHEAD_VMM_BOOT_LOADER_DISK_H_

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "absl/types/span.h"

namespace bulkhead::boot_loader {

// The guest's disk, or a part of it; its contents are not trusted. Thread-compatible.
class Disk {
 public:
  virtual ~Disk() = default;

  uint64_t size_bytes() const { return size_bytes_; }
  // Reads exactly out.size() bytes. False: they are not all on the disk, or cannot be read.
  bool Read(uint64_t offset, absl::Span<uint8_t> out) const {
    return offset <= size_bytes_ && out.size() <= size_bytes_ - offset && DoRead(offset, out);
  }

 protected:
  explicit Disk(uint64_t size_bytes) : size_bytes_(size_bytes) {}

 private:
  // Within the disk.
  virtual bool DoRead(uint64_t offset, absl::Span<uint8_t> out) const = 0;

  const uint64_t size_bytes_;
};

// An open file. Borrows the descriptor.
class FileDisk final : public Disk {
 public:
  FileDisk(int fd, uint64_t size_bytes) : Disk(size_bytes), fd_(fd) {}

 private:
  bool DoRead(uint64_t offset, absl::Span<uint8_t> out) const override {
    while (!out.empty()) {
      const ssize_t n = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      offset += static_cast<uint64_t>(n);
      out.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  const int fd_;
};

// Bytes in memory, for tests.
class MemoryDisk final : public Disk {
 public:
  explicit MemoryDisk(std::string bytes) : Disk(bytes.size()), bytes_(std::move(bytes)) {}

 private:
  bool DoRead(uint64_t offset, absl::Span<uint8_t> out) const override {
    memcpy(out.data(), bytes_.data() + offset, out.size());
    return true;
  }

  const std::string bytes_;
};

// A part of a disk, which must outlive it.
class DiskPart final : public Disk {
 public:
  DiskPart(const Disk& whole, uint64_t start, uint64_t size_bytes)
      : Disk(size_bytes), whole_(whole), start_(start) {}

 private:
  bool DoRead(uint64_t offset, absl::Span<uint8_t> out) const override {
    return whole_.Read(start_ + offset, out);
  }

  const Disk& whole_;
  const uint64_t start_;
};

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_DISK_H_
