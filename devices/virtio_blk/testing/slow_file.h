#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_SLOW_FILE_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_SLOW_FILE_H_

#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"

namespace bulkhead {

// A file on a FUSE file system whose server takes its time: a network file system on a bad day. The
// server is a process of its own. Needs root. Create() it while the process has one thread: it
// moves into a mount namespace of its own, so that nothing is left behind.
class SlowFile {
 public:
  // A file of that size, full of zeros. Errors: as open(2) of /dev/fuse, unshare(2), mount(2).
  static absl::StatusOr<std::unique_ptr<SlowFile>> Create(const std::string& directory,
                                                          uint64_t size_bytes);
  // Ends the server: whatever waits for it fails.
  ~SlowFile();
  SlowFile(const SlowFile&) = delete;
  SlowFile& operator=(const SlowFile&) = delete;

  // In this process and in the children that it makes from now on.
  const std::string& path() const { return path_; }
  UniqueFd Open(int flags) const;

  // How long each read, write and fsync takes that arrives from now on.
  void set_delay_ms(int delay_ms) { shared().delay_ms.store(delay_ms); }
  // While this is so, no open(2), or no close(2), is answered.
  void set_opens_stall(bool stall) { shared().opens_stall.store(stall); }
  void set_closes_stall(bool stall) { shared().closes_stall.store(stall); }
  // While this is so, no fstat(2) is answered.
  void set_attributes_stall(bool stall) { shared().attributes_stall.store(stall); }
  // Reads and writes that have arrived.
  int requests() const { return shared().requests.load(); }

 private:
  struct Shared {
    std::atomic<int> delay_ms;
    std::atomic<int> requests;
    std::atomic<bool> opens_stall;
    std::atomic<bool> closes_stall;
    std::atomic<bool> attributes_stall;
  };

  SlowFile() = default;
  Shared& shared() const { return *reinterpret_cast<Shared*>(mapping_.data()); }
  static void Serve(int device, uint64_t size_bytes, Shared& shared);

  std::string path_;
  std::string directory_;
  MemoryMapping mapping_;
  pid_t server_ = -1;
};

}  // namespace bulkhead

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_SLOW_FILE_H_
