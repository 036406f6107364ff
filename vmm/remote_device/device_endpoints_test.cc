#include "vmm/remote_device/device_endpoints.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/testing/hostile_flags.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/attach.pb.h"
#include "proto/durable_layout.h"
#include "vmm/config/host_file.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {
namespace {

int Modes(int fd) { return fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK | O_DIRECT | O_ACCMODE); }

// All processes that have an event or a memory file share its modes, so a change by one affects its
// successor. A file is opened again for each process.
TEST(DeviceEndpointsTest, ModesThatADeadProcessHasSetAreRestored) {
  const GuestRam ram = *GuestRam::Create(16 << 20);
  DeviceDescription description;
  description.pci = DeviceDescription::PciFunction();
  description.pci->msix_vectors = 1;
  description.pci->has_intx = true;
  description.doorbells.emplace_back();
  description.saved_state_bytes = 8;
  description.uses_dma = true;
  std::vector<ResourceSpec> resources;
  const std::string path = testing::TempDir() + "/disk";
  std::ofstream(path) << std::string(512, 'x');
  resources.push_back({.name = "disk", .file = *HostFile::Open(path, {})});
  const auto endpoints = DeviceEndpoints::Create(description, std::move(resources), ram,
                                                 {.waiters = 1, .max_poll = absl::ZeroDuration()});
  ASSERT_TRUE(endpoints.ok()) << endpoints.status();
  const auto first = endpoints->MakeOffer("disk0", 1, 0);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ(first->request.descriptors(first->request.descriptors_size() - 1).name(), "disk");
  EXPECT_EQ(Modes(first->descriptors.back()), O_RDWR);
  ASSERT_TRUE(LeaveHostileFlags(first->descriptors, SIGKILL));
  ASSERT_TRUE(endpoints->channel().PrepareSuccessor(false).ok());

  const auto second = endpoints->MakeOffer("disk0", 2, 0);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(Modes(second->descriptors.back()), O_RDWR);
  ASSERT_EQ(second->descriptors.size(), 11u);
  for (size_t i = 0; i < second->descriptors.size(); ++i) {
    const int fd = second->descriptors[i];
    const auto& descriptor = second->request.descriptors(static_cast<int>(i));
    EXPECT_EQ(HostileFlagsOf(fd), "") << descriptor.kind();
    const bool is_memory = descriptor.kind() == v1::Descriptor::CHANNEL_REQUEST_MEMORY ||
                           descriptor.kind() == v1::Descriptor::CHANNEL_RESPONSE_MEMORY ||
                           descriptor.kind() == v1::Descriptor::GUEST_MEMORY ||
                           descriptor.kind() == v1::Descriptor::DURABLE_STATE;
    const bool is_file = descriptor.kind() == v1::Descriptor::RESOURCE;
    EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, is_memory || is_file ? 0 : O_NONBLOCK)
        << descriptor.kind();
  }
}

TEST(DeviceEndpointsTest, GuestMemoryIsForDevicesWithDma) {
  const GuestRam ram = *GuestRam::Create(16 << 20);
  for (const bool uses_dma : {false, true}) {
    DeviceDescription description;
    description.pci = DeviceDescription::PciFunction();
    description.uses_dma = uses_dma;
    const auto endpoints = DeviceEndpoints::Create(
        description, {}, ram, {.waiters = 1, .max_poll = absl::ZeroDuration()});
    ASSERT_TRUE(endpoints.ok()) << endpoints.status();
    const auto offer = endpoints->MakeOffer("disk0", 1, 0);
    ASSERT_TRUE(offer.ok()) << offer.status();
    const auto& descriptors = offer->request.descriptors();
    EXPECT_EQ(std::count_if(descriptors.begin(), descriptors.end(),
                            [](const auto& descriptor) {
                              return descriptor.kind() == v1::Descriptor::GUEST_MEMORY;
                            }),
              uses_dma ? 1 : 0);
    EXPECT_EQ(std::count(offer->descriptors.begin(), offer->descriptors.end(), ram.memfd()),
              uses_dma ? 1 : 0);
  }
}

TEST(DeviceEndpointsTest, AnUnreportedWritebackFailureOutlivesDiscardedState) {
  const GuestRam ram = *GuestRam::Create(16 << 20);
  DeviceDescription description;
  description.saved_state_bytes = 8;
  std::vector<ResourceSpec> resources;
  const std::string path = testing::TempDir() + "/disk";
  std::ofstream(path) << std::string(512, 'x');
  resources.push_back({.name = "disk", .file = *HostFile::Open(path, {})});
  const auto endpoints = DeviceEndpoints::Create(description, std::move(resources), ram,
                                                 {.waiters = 1, .max_poll = absl::ZeroDuration()});
  ASSERT_TRUE(endpoints.ok()) << endpoints.status();
  uint64_t generation = 0;
  // Attaches the next process. True if its offer reports a failure. `state`: its durable state.
  const auto attach = [&](UniqueFd& state) {
    const auto offer = endpoints->MakeOffer("disk0", ++generation, 0);
    bool failed = false;
    for (int i = 0; i < offer->request.descriptors_size(); ++i) {
      const v1::Descriptor& descriptor = offer->request.descriptors(i);
      failed |= descriptor.writeback_failed();
      if (descriptor.kind() == v1::Descriptor::DURABLE_STATE) {
        state.reset(dup(offer->descriptors[static_cast<size_t>(i)]));
      }
    }
    endpoints->OnAttached();
    return failed;
  };
  UniqueFd state;
  EXPECT_FALSE(attach(state));
  const uint32_t owed = 1;
  ASSERT_EQ(pwrite(state.get(), &owed, sizeof(owed), durable::kOwedFailureOffset), 4);
  EXPECT_FALSE(attach(state)) << "the durable state already has the failure";
  ASSERT_TRUE(endpoints->DiscardDurableState().ok());
  EXPECT_TRUE(attach(state));
  EXPECT_FALSE(attach(state));
  ASSERT_TRUE(endpoints->DiscardDurableState().ok());
  EXPECT_FALSE(attach(state));
}

}  // namespace
}  // namespace bulkhead::vmm
