#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_TEST_DISK_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_TEST_DISK_H_

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/disk_engine.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {

inline constexpr uint64_t kAllFeatures = ~uint64_t{0};
inline constexpr uint64_t kSectors = 8192;  // 4 MiB
inline constexpr uint8_t kNoStatus = 0xee;

inline std::vector<uint8_t> RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

// The engine that tests of a whole disk run over: each of them runs over each engine.
inline EngineKind EngineOfThisTest() {
  const char* const name = getenv("BULKHEAD_TEST_IO_ENGINE");
  return ParseEngineKind(name == nullptr ? "auto" : name).value();
}

// And with direct I/O, on a file system that knows it.
inline int DirectFlagOfThisTest() {
  const char* const flags = getenv("BULKHEAD_TEST_OPEN_FLAGS");
  return flags != nullptr && std::string(flags) == "direct" ? O_DIRECT : 0;
}

// A disk over a real file, and a driver of it. Its process may be restarted at any time.
class TestDisk {
 public:
  // What the disk's process gets, of a file with the contents.
  using OpenFile = std::function<UniqueFd(const std::string& path, int flags)>;

  explicit TestDisk(BlockOptions options = {}, int open_flags = O_RDWR,
                    uint64_t features = kAllFeatures, const OpenFile& open_file = &OpenItself)
      : contents(RandomBytes(kSectors * kSectorSize, 1)), services({{0, 32 << 20}}) {
    std::string path = testing::TempDir() + "/diskXXXXXX";
    file.reset(mkstemp(path.data()));
    EXPECT_EQ(pwrite(file.get(), contents.data(), contents.size(), 0),
              static_cast<ssize_t>(contents.size()));
    services.AddResource("disk", open_file(path, open_flags | DirectFlagOfThisTest() | O_CLOEXEC));
    unlink(path.c_str());
    if (options.pause_on_error) {
      int ends[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
      services.AddResource("errors", UniqueFd(ends[0]));
      error_link.reset(ends[1]);
    }
    options.engine = EngineOfThisTest();
    options.await_writes = true;
    model = std::make_unique<RestartableDevice>(services, [options] {
      return std::make_unique<PciTransport>(BlockDevice::Create(options).value());
    });
    driver = std::make_unique<FakeDriver>(*model, services);
    EXPECT_TRUE(driver->Initialize(features));
  }

  static UniqueFd OpenItself(const std::string& path, int flags) {
    return UniqueFd(open(path.c_str(), flags));
  }

  struct Request {
    GuestAddress status = 0;
    GuestAddress data = 0;
    uint16_t head = 0;
  };

  // Makes a request available. `data_in` bytes are to be written by the device.
  Request Add(uint32_t type, uint64_t sector, const std::vector<uint8_t>& data_out,
              uint32_t data_in, uint16_t queue = 0) {
    Request request;
    const BlockHeader header{type, 0, sector};
    const GuestAddress header_address = driver->Allocate(sizeof(header));
    EXPECT_TRUE(services.memory().WriteObject(header_address, header));
    std::vector<Buffer> buffers = {{header_address, sizeof(header), false}};
    if (!data_out.empty()) {
      request.data = driver->Allocate(data_out.size());
      EXPECT_TRUE(services.memory().Write(request.data, data_out));
      buffers.push_back({request.data, static_cast<uint32_t>(data_out.size()), false});
    }
    if (data_in != 0) {
      request.data = driver->Allocate(data_in);
      buffers.push_back({request.data, data_in, true});
    }
    request.status = driver->Allocate(1);
    EXPECT_TRUE(services.memory().WriteObject(request.status, kNoStatus));
    buffers.push_back({request.status, 1, true});
    request.head = driver->queue(queue).Add(buffers).value();
    return request;
  }

  struct Answer {
    uint8_t status = kNoStatus;
    uint32_t used_length = 0;
    std::vector<uint8_t> data;
  };
  Answer Do(uint32_t type, uint64_t sector, const std::vector<uint8_t>& data_out = {},
            uint32_t data_in = 0, uint16_t queue = 0) {
    const Request request = Add(type, sector, data_out, data_in, queue);
    const std::optional<UsedElement> used = driver->KickAndWait(queue);
    if (!used.has_value()) return {};
    EXPECT_EQ(used->id, request.head);
    Answer answer{StatusOf(request), used->length, std::vector<uint8_t>(data_in)};
    EXPECT_TRUE(services.memory().Read(request.data, absl::MakeSpan(answer.data)));
    return answer;
  }
  uint8_t StatusOf(const Request& request) {
    uint8_t status = 0;
    EXPECT_TRUE(services.memory().ReadObject(request.status, status));
    return status;
  }

  std::vector<uint8_t> OnDisk(uint64_t sector, uint64_t sectors) {
    std::vector<uint8_t> bytes(sectors * kSectorSize);
    EXPECT_EQ(pread(file.get(), bytes.data(), bytes.size(), sector * kSectorSize),
              static_cast<ssize_t>(bytes.size()));
    return bytes;
  }
  std::vector<uint8_t> Original(uint64_t sector, uint64_t sectors) {
    const auto begin = contents.begin() + sector * kSectorSize;
    return std::vector<uint8_t>(begin, begin + sectors * kSectorSize);
  }
  uint64_t AllocatedBytes() {
    struct stat info;
    EXPECT_EQ(fstat(file.get(), &info), 0);
    return info.st_blocks * 512;
  }

  const std::vector<uint8_t> contents;
  UniqueFd file;
  UniqueFd error_link;  // the vmm's end, with pause_on_error
  DurableServices services;
  std::unique_ptr<RestartableDevice> model;
  std::unique_ptr<FakeDriver> driver;
};

inline std::vector<uint8_t> Zeros(uint64_t sectors) {
  return std::vector<uint8_t>(sectors * kSectorSize);
}

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_TEST_DISK_H_
