#include "vmm/remote_device/device_endpoints.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {
namespace {

// What a process does to the modes of a file or an event it does to those of every other process
// that has it, its successor included.
TEST(DeviceEndpointsTest, ModesThatADeadProcessHasSetAreTakenBack) {
  const GuestRam ram = *GuestRam::Create(16 << 20);
  DeviceDescription description;
  description.pci.emplace();
  description.pci->msix_vectors = 1;
  description.pci->has_intx = true;
  description.doorbells.emplace_back();
  std::vector<ResourceSpec> resources;
  const std::string path = testing::TempDir() + "/disk";
  resources.push_back(
      {.name = "disk", .fd = UniqueFd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600))});
  const int disk = resources[0].fd.get();
  const auto endpoints = DeviceEndpoints::Create(description, std::move(resources), ram,
                                                 {.waiters = 1, .max_poll = absl::ZeroDuration()});
  ASSERT_TRUE(endpoints.ok()) << endpoints.status();
  const std::vector<int> events = {endpoints->doorbells()[0].fd(),
                                   endpoints->msix_vectors()[0].fd(), endpoints->intx_fd(),
                                   endpoints->intx_resample_fd()};

  ASSERT_EQ(fcntl(disk, F_SETFL, O_APPEND | O_NONBLOCK), 0);
  for (const int event : events) ASSERT_EQ(fcntl(event, F_SETFL, 0), 0);
  ASSERT_TRUE(endpoints->MakeOffer("disk0", 2, 0).ok());
  EXPECT_EQ(fcntl(disk, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE), O_RDWR);
  for (const int event : events) EXPECT_NE(fcntl(event, F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace bulkhead::vmm
