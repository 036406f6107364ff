// A disk in a process of its own, over rings that another process drives, and SIGKILL again and
// again, at any time: each request is done once, as far as its driver can tell.
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/pid_fd.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/testing/test_disk.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint16_t kQueues = 2;
constexpr int kTracks = 24;  // requests at a time: as many in each queue as fit
constexpr uint32_t kTrackBytes = 8 * 512;
constexpr uint64_t kTrackSectors = kTrackBytes / kSectorSize;
constexpr int kKills = 150;

// One request after the other on sectors of its own: writes something new, reads
// it back, and so on, with a flush or a discard now and then.
class Track {
 public:
  Track(TestDisk& disk, int number)
      : disk_(disk),
        sector_(static_cast<uint64_t>(number) * kTrackSectors),
        queue_(number % kQueues),
        contents_(disk.Original(sector_, kTrackSectors)),
        random_(number),
        header_(disk.driver->Allocate(sizeof(BlockHeader))),
        data_(disk.driver->Allocate(kTrackBytes)),
        range_(disk.driver->Allocate(sizeof(BlockRange))),
        status_(disk.driver->Allocate(1)),
        table_(disk.driver->Allocate(64)) {}

  uint16_t queue() const { return queue_; }
  uint16_t head() const { return head_; }
  bool busy() const { return busy_; }

  void Begin() {
    const uint32_t choice = random_() % 16;
    type_ = choice == 0   ? kBlockFlushCommand
            : choice == 1 ? kBlockDiscardCommand
            : was_write_  ? kBlockIn
                          : kBlockOut;
    const GuestMemory& memory = disk_.services.memory();
    memory.WriteObject(header_, BlockHeader{type_, 0, sector_});
    memory.WriteObject(status_, kNoStatus);
    std::vector<Buffer> buffers = {{header_, sizeof(BlockHeader), false}};
    if (type_ == kBlockOut) {
      contents_ = RandomBytes(kTrackBytes, random_());
      memory.Write(data_, contents_);
    }
    if (type_ == kBlockIn) memory.Write(data_, std::vector<uint8_t>(kTrackBytes, 0xdb));
    if (type_ == kBlockIn || type_ == kBlockOut) {
      buffers.push_back({data_, kTrackBytes, type_ == kBlockIn});
    } else if (type_ == kBlockDiscardCommand) {
      memory.WriteObject(range_, BlockRange{sector_, kTrackSectors, 0});
      contents_.assign(kTrackBytes, 0);
      buffers.push_back({range_, sizeof(BlockRange), false});
    }
    buffers.push_back({status_, 1, true});
    FakeQueue& ring = disk_.driver->queue(queue_);
    head_ = (random_() % 2 == 0 ? ring.AddIndirect(buffers, table_) : ring.Add(buffers)).value();
    busy_ = true;
  }

  void End() {
    busy_ = false;
    was_write_ = type_ == kBlockOut;
    uint8_t status = 0;
    disk_.services.memory().ReadObject(status_, status);
    EXPECT_EQ(status, kBlockStatusOk);
    if (type_ == kBlockIn) {
      std::vector<uint8_t> data(kTrackBytes);
      disk_.services.memory().Read(data_, absl::MakeSpan(data));
      EXPECT_TRUE(data == contents_) << "sector " << sector_;
    }
  }

  void ExpectOnDisk() { EXPECT_TRUE(disk_.OnDisk(sector_, kTrackSectors) == contents_); }

 private:
  TestDisk& disk_;
  const uint64_t sector_;
  const uint16_t queue_;
  std::vector<uint8_t> contents_;  // once the request is done
  std::mt19937 random_;
  const GuestAddress header_, data_, range_, status_, table_;
  uint32_t type_ = 0;
  uint16_t head_ = 0;
  bool busy_ = false;
  bool was_write_ = false;
};

class Guest {
 public:
  Guest() : disk_({.queues = kQueues, .queue_size = 64}) {
    for (int i = 0; i < kTracks; ++i) tracks_.emplace_back(disk_, i);
    disk_.model.reset();  // from here on it lives in children
  }

  PidFd StartProcess() {
    const pid_t child = fork();
    if (child == 0) BeTheDisk();
    return PidFd::Open(child).value();
  }

  // Takes what is done, and asks for more as long as `more`. How many requests are pending.
  int Work(bool more) {
    int pending = 0;
    for (uint16_t queue = 0; queue < kQueues; ++queue) {
      while (const std::optional<UsedElement> used = disk_.driver->queue(queue).PopUsed()) {
        Track* track = Find(queue, used->id);
        EXPECT_NE(track, nullptr) << "completed twice, or never asked for";
        if (track == nullptr) continue;
        track->End();
        ++done_;
      }
    }
    for (Track& track : tracks_) {
      if (!track.busy() && more) track.Begin();
      if (track.busy()) ++pending;
    }
    for (uint16_t queue = 0; queue < kQueues; ++queue) {
      if (disk_.driver->queue(queue).NeedsDoorbell()) doorbell_.Signal();
    }
    return pending;
  }

  int done() const { return done_; }
  std::vector<Track>& tracks() { return tracks_; }

 private:
  Track* Find(uint16_t queue, uint32_t head) {
    for (Track& track : tracks_) {
      if (track.busy() && track.queue() == queue && track.head() == head) return &track;
    }
    return nullptr;
  }

  [[noreturn]] void BeTheDisk() {
    RestartableDevice device(disk_.services, [] {
      return std::make_unique<PciTransport>(BlockDevice::Create({.queues = kQueues,
                                                                 .queue_size = 64,
                                                                 .engine = EngineOfThisTest(),
                                                                 .await_writes = true})
                                                .value());
    });
    const absl::Status watched = disk_.services.Watch(doorbell_.fd(), [&] {
      doorbell_.Drain();
      for (uint32_t i = 0; i < kQueues; ++i) device.OnDoorbell(i);
    });
    // Ends by itself if the test does.
    while (watched.ok() && getppid() == parent_) disk_.services.RunWatches(1000);
    _exit(1);
  }

  const pid_t parent_ = getpid();
  TestDisk disk_;
  EventFd doorbell_ = EventFd::Create().value();
  std::vector<Track> tracks_;
  int done_ = 0;
};

TEST(BlockDeviceKillTest, NoRequestIsLostOrDoneTwice) {
  Guest guest;
  std::mt19937 random(1);
  int kills_with_requests = 0;
  for (int i = 0; i < kKills; ++i) {
    const PidFd process = guest.StartProcess();
    // The child may still be restoring its state, or have done thousands of requests. It lives
    // longer where it is so slow that fewer are done than is good for the test.
    const int slowness = 1 + 4 * i / (guest.done() + 1);
    const absl::Time when = absl::Now() + slowness * absl::Microseconds(random() % 8000);
    int pending;
    do {
      pending = guest.Work(true);
    } while (absl::Now() < when);
    if (pending != 0) ++kills_with_requests;
    ASSERT_TRUE(process.Signal(SIGKILL).ok());
    ASSERT_TRUE(process.Wait(absl::Seconds(20)).ok());
    if (HasFailure()) break;
  }
  EXPECT_GT(kills_with_requests, kKills / 2);
  const PidFd process = guest.StartProcess();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (guest.Work(false) != 0 && absl::Now() < deadline) {
  }
  EXPECT_EQ(guest.Work(false), 0) << "requests were lost";
  ASSERT_TRUE(process.Signal(SIGKILL).ok());
  ASSERT_TRUE(process.Wait(absl::Seconds(20)).ok());
  printf("%d requests, %d kills\n", guest.done(), kKills);
  EXPECT_GT(guest.done(), kKills);
  for (Track& track : guest.tracks()) track.ExpectOnDisk();
}

}  // namespace
}  // namespace bulkhead::devices::virtio
