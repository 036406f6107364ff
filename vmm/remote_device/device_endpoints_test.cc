#include "vmm/remote_device/device_endpoints.h"

#include <fcntl.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "vmm/config/host_file.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {
namespace {

int Modes(int fd) { return fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK | O_DIRECT | O_ACCMODE); }

// What a process does to the modes of an event it does to those of every other process that has it,
// its successor included. A file is opened anew.
TEST(DeviceEndpointsTest, ModesThatADeadProcessHasSetAreTakenBack) {
  const GuestRam ram = *GuestRam::Create(16 << 20);
  DeviceDescription description;
  description.pci.emplace();
  description.pci->msix_vectors = 1;
  description.pci->has_intx = true;
  description.doorbells.emplace_back();
  std::vector<ResourceSpec> resources;
  const std::string path = testing::TempDir() + "/disk";
  std::ofstream(path) << std::string(512, 'x');
  resources.push_back({.name = "disk", .file = *HostFile::Open(path, {})});
  const auto endpoints = DeviceEndpoints::Create(description, std::move(resources), ram,
                                                 {.waiters = 1, .max_poll = absl::ZeroDuration()});
  ASSERT_TRUE(endpoints.ok()) << endpoints.status();
  const std::vector<int> events = {endpoints->doorbells()[0].fd(),
                                   endpoints->msix_vectors()[0].fd(), endpoints->intx_fd(),
                                   endpoints->intx_resample_fd()};

  const auto first = endpoints->MakeOffer("disk0", 1, 0);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ(first->request.descriptors(first->request.descriptors_size() - 1).name(), "disk");
  EXPECT_EQ(Modes(first->descriptors.back()), O_RDWR);
  ASSERT_EQ(fcntl(first->descriptors.back(), F_SETFL, O_APPEND | O_NONBLOCK), 0);
  for (const int event : events) ASSERT_EQ(fcntl(event, F_SETFL, 0), 0);

  const auto second = endpoints->MakeOffer("disk0", 2, 0);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(Modes(second->descriptors.back()), O_RDWR);
  for (const int event : events) EXPECT_NE(fcntl(event, F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace bulkhead::vmm
