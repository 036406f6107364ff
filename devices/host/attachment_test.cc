#include "devices/host/attachment.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/message_socket.h"
#include "base/pipe.h"
#include "base/testing/files.h"
#include "base/testing/mapping_flags.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/attach.pb.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {
namespace {

using ::testing::HasSubstr;

v1::DeviceInfo Device() {
  v1::DeviceInfo info;
  info.mutable_pci()->set_msix_vectors(2);
  info.mutable_pci()->set_has_intx(true);
  info.set_uses_dma(true);
  info.add_doorbells();
  info.add_required_resources("disk");
  return info;
}

v1::Descriptor& Add(v1::AttachRequest& request, v1::Descriptor::Kind kind, uint32_t index = 0) {
  v1::Descriptor& descriptor = *request.add_descriptors();
  descriptor.set_kind(kind);
  descriptor.set_index(index);
  return descriptor;
}

// What Device() is attached by: descriptors 0 to 11.
v1::AttachRequest GoodRequest() {
  v1::AttachRequest request;
  request.set_contract_version(kContractVersion);
  request.set_generation(7);
  request.set_device_name("disk0");
  request.mutable_channel()->set_slots(64);
  request.mutable_channel()->set_waiters(2);
  Add(request, v1::Descriptor::CHANNEL_REQUEST_MEMORY);
  Add(request, v1::Descriptor::CHANNEL_RESPONSE_MEMORY);
  Add(request, v1::Descriptor::CHANNEL_REQUEST_EVENT);
  Add(request, v1::Descriptor::CHANNEL_COMPLETION_EVENT, 0);
  Add(request, v1::Descriptor::CHANNEL_COMPLETION_EVENT, 1);
  v1::Descriptor& memory = Add(request, v1::Descriptor::GUEST_MEMORY);
  memory.set_guest_address(0x100000);
  memory.set_size_bytes(0x10000);
  Add(request, v1::Descriptor::DOORBELL);
  Add(request, v1::Descriptor::MSIX_VECTOR, 0);
  Add(request, v1::Descriptor::MSIX_VECTOR, 1);
  Add(request, v1::Descriptor::INTX);
  Add(request, v1::Descriptor::INTX_RESAMPLE);
  Add(request, v1::Descriptor::RESOURCE).set_name("disk");
  return request;
}

SocketMessage Message(const v1::AttachRequest& request) {
  SocketMessage message = {.bytes = request.SerializeAsString(), .descriptors = {}};
  for (int i = 0; i < request.descriptors_size(); ++i) {
    message.descriptors.push_back(*CreateMemfd("test", 0x10000));
  }
  return message;
}

TEST(ReceiveAttachRequestTest, TakesDescriptorsOfSeveralPackets) {
  const auto [vmm, device] = *CreateSocketPair(SOCK_SEQPACKET);
  constexpr int kCount = 2 * kMaxMessageDescriptors + 1;
  v1::AttachRequest request = GoodRequest();
  while (request.descriptors_size() < kCount) Add(request, v1::Descriptor::MSIX_VECTOR);
  const EventFd event = *EventFd::Create();
  const std::vector<int> full(kMaxMessageDescriptors, event.fd());
  ASSERT_TRUE(SendSocketMessage(vmm.get(), request.SerializeAsString(), full).ok());
  ASSERT_TRUE(SendSocketMessage(vmm.get(), "+", full).ok());
  ASSERT_TRUE(SendSocketMessage(vmm.get(), "+", {event.fd()}).ok());
  ASSERT_TRUE(SendSocketMessage(vmm.get(), "+", {event.fd()}).ok());  // not of this request
  const absl::StatusOr<SocketMessage> message =
      ReceiveAttachRequest(device.get(), absl::Seconds(10));
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->descriptors.size(), size_t{kCount});
  EXPECT_EQ(message->bytes, request.SerializeAsString());
}

TEST(ReceiveAttachRequestTest, EndsWhereDescriptorsAreMissing) {
  const auto [vmm, device] = *CreateSocketPair(SOCK_SEQPACKET);
  const std::string request = GoodRequest().SerializeAsString();
  const EventFd event = *EventFd::Create();
  // A packet without descriptors.
  ASSERT_TRUE(SendSocketMessage(vmm.get(), request, {event.fd()}).ok());
  ASSERT_TRUE(SendSocketMessage(vmm.get(), "+", {}).ok());
  absl::StatusOr<SocketMessage> message = ReceiveAttachRequest(device.get(), absl::Seconds(10));
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->descriptors.size(), 1u);
  EXPECT_THAT(std::string(ParseAttachRequest(Device(), *std::move(message)).status().message()),
              HasSubstr("12 descriptors announced, 1 received"));
  // One that is longer than a byte; none at all.
  ASSERT_TRUE(SendSocketMessage(vmm.get(), request, {event.fd()}).ok());
  ASSERT_TRUE(SendSocketMessage(vmm.get(), "++", {event.fd()}).ok());
  EXPECT_EQ(ReceiveAttachRequest(device.get(), absl::Seconds(10)).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(SendSocketMessage(vmm.get(), request, {event.fd()}).ok());
  EXPECT_EQ(ReceiveAttachRequest(device.get(), absl::Milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  // No request: what it is, ParseAttachRequest() tells.
  ASSERT_TRUE(SendSocketMessage(vmm.get(), "\xff", {}).ok());
  EXPECT_TRUE(ReceiveAttachRequest(device.get(), absl::Seconds(10)).ok());
}

TEST(AttachmentTest, TakesAGoodRequestApart) {
  SocketMessage message = Message(GoodRequest());
  const int second_vector = message.descriptors[8].get();
  const auto attachment = ParseAttachRequest(Device(), std::move(message));
  ASSERT_TRUE(attachment.ok()) << attachment.status();
  EXPECT_EQ(attachment->generation, 7u);
  EXPECT_EQ(attachment->device_name, "disk0");
  EXPECT_EQ(attachment->completion_events.size(), 2u);
  EXPECT_EQ(attachment->doorbells.size(), 1u);
  ASSERT_EQ(attachment->msix_vectors.size(), 2u);
  EXPECT_EQ(attachment->msix_vectors[1].fd(), second_vector);
  ASSERT_EQ(attachment->resources.size(), 1u);
  EXPECT_EQ(attachment->resources[0].name, "disk");
  const auto memory = MapGuestMemory(attachment->guest_memory);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_TRUE(memory->WriteObject(0x100000, uint32_t{1}));
  EXPECT_FALSE(memory->WriteObject(0x110000, uint32_t{1}));
  EXPECT_THAT(MappingFlags(memory->HostPointer(0x100000, 1)), testing::HasSubstr(" dd "))
      << "a core dump would hold it";
}

TEST(AttachmentTest, DurableStateAndFunctionStateAreTaken) {
  v1::AttachRequest request = GoodRequest();
  EXPECT_FALSE(ParseAttachRequest(Device(), Message(request))->durable_state.ok());
  v1::DeviceInfo keeps_state = Device();
  keeps_state.set_saved_state_bytes(1);
  EXPECT_EQ(ParseAttachRequest(keeps_state, Message(request)).status().message(),
            "attach request: no durable state");
  keeps_state = Device();
  keeps_state.set_durable_memory_bytes(1);
  EXPECT_FALSE(ParseAttachRequest(keeps_state, Message(request)).ok());
  Add(request, v1::Descriptor::DURABLE_STATE);
  request.set_function_state(kFunctionStateBusMaster);
  SocketMessage message = Message(request);
  const int durable_state = message.descriptors.back().get();
  const auto attachment = ParseAttachRequest(Device(), std::move(message));
  ASSERT_TRUE(attachment.ok()) << attachment.status();
  EXPECT_EQ(attachment->durable_state.get(), durable_state);
  EXPECT_EQ(attachment->function_state, kFunctionStateBusMaster);
  Add(request, v1::Descriptor::DURABLE_STATE);
  EXPECT_THAT(std::string(ParseAttachRequest(Device(), Message(request)).status().message()),
              HasSubstr("two descriptors for the durable state"));
}

TEST(AttachmentTest, APlatformDeviceHasALineWithoutResample) {
  v1::DeviceInfo info;
  info.mutable_platform()->set_irq(4);
  v1::AttachRequest request = GoodRequest();
  request.mutable_descriptors()->DeleteSubrange(5, 7);  // from the guest memory on
  Add(request, v1::Descriptor::INTX);
  const auto attachment = ParseAttachRequest(info, Message(request));
  ASSERT_TRUE(attachment.ok()) << attachment.status();
  EXPECT_TRUE(attachment->intx.ok());
  EXPECT_FALSE(attachment->intx_resample.ok());
}

TEST(AttachmentTest, GuestMemoryIsForDevicesWithDma) {
  v1::DeviceInfo info = Device();
  info.set_uses_dma(false);
  v1::AttachRequest request = GoodRequest();
  EXPECT_EQ(ParseAttachRequest(info, Message(request)).status().message(),
            "attach request: guest memory was given, but the device does no DMA");
  request.mutable_descriptors()->DeleteSubrange(5, 1);
  const auto attachment = ParseAttachRequest(info, Message(request));
  ASSERT_TRUE(attachment.ok()) << attachment.status();
  EXPECT_TRUE(MapGuestMemory(attachment->guest_memory)->ranges().empty());
}

struct BadRequest {
  const char* name;
  std::function<void(v1::AttachRequest&)> spoil;
  const char* message;
};

class BadAttachRequestTest : public testing::TestWithParam<BadRequest> {};

TEST_P(BadAttachRequestTest, IsRefusedWithAReason) {
  v1::AttachRequest request = GoodRequest();
  GetParam().spoil(request);
  const auto attachment = ParseAttachRequest(Device(), Message(request));
  ASSERT_FALSE(attachment.ok());
  EXPECT_THAT(std::string(attachment.status().message()), HasSubstr(GetParam().message));
}

void Remove(v1::AttachRequest& request, int descriptor) {
  request.mutable_descriptors()->DeleteSubrange(descriptor, 1);
}

INSTANTIATE_TEST_SUITE_P(
    Requests, BadAttachRequestTest,
    testing::ValuesIn<BadRequest>({
        {"OtherContract", [](auto& r) { r.set_contract_version(99); }, "contract version 99"},
        {"NoGeneration", [](auto& r) { r.set_generation(0); }, "generation 0"},
        {"NoWaiters", [](auto& r) { r.mutable_channel()->set_waiters(0); }, "0 waiters"},
        {"ManyWaiters", [](auto& r) { r.mutable_channel()->set_waiters(1u << 31); }, "waiters"},
        {"NoRequestMemory", [](auto& r) { Remove(r, 0); }, "no request memory"},
        {"NoResponseMemory", [](auto& r) { Remove(r, 1); }, "no response memory"},
        {"NoRequestEvent", [](auto& r) { Remove(r, 2); }, "no request event"},
        {"NoCompletionEvent", [](auto& r) { Remove(r, 4); },
         "no descriptor for completion event 1"},
        {"NoGuestMemory", [](auto& r) { Remove(r, 5); }, "no guest memory"},
        {"NoDoorbell", [](auto& r) { Remove(r, 6); }, "no descriptor for doorbell 0"},
        {"NoVector", [](auto& r) { Remove(r, 7); }, "no descriptor for MSI-X vector 0"},
        {"NoLine", [](auto& r) { Remove(r, 9); }, "the interrupt line is missing"},
        {"NoResample", [](auto& r) { Remove(r, 10); }, "resample event is missing"},
        {"NoResource", [](auto& r) { Remove(r, 11); }, "the resource 'disk' is missing"},
        {"TwoRequestEvents", [](auto& r) { Add(r, v1::Descriptor::CHANNEL_REQUEST_EVENT); },
         "two descriptors for the request event"},
        {"TwoOfOneVector", [](auto& r) { Add(r, v1::Descriptor::MSIX_VECTOR, 1); },
         "two descriptors for MSI-X vector 1"},
        {"VectorBeyond", [](auto& r) { Add(r, v1::Descriptor::MSIX_VECTOR, 2); },
         "MSI-X vector 2 is beyond the 2"},
        {"WaiterBeyond", [](auto& r) { Add(r, v1::Descriptor::CHANNEL_COMPLETION_EVENT, ~0u); },
         "is beyond the 2"},
        {"UnknownKind", [](auto& r) { Add(r, static_cast<v1::Descriptor::Kind>(77)); },
         "the unknown kind 77"},
        {"EmptyMemory", [](auto& r) { Add(r, v1::Descriptor::GUEST_MEMORY); },
         "a guest memory range is empty"},
        {"NamelessResource", [](auto& r) { Add(r, v1::Descriptor::RESOURCE); },
         "a resource has no name"},
        {"TwoResourcesOfOneName",
         [](auto& r) { Add(r, v1::Descriptor::RESOURCE).set_name("disk"); },
         "two resources 'disk'"},
    }),
    [](const auto& info) { return std::string(info.param.name); });

TEST(AttachmentTest, RefusesWhatIsNoRequest) {
  EXPECT_FALSE(ParseAttachRequest(Device(), {.bytes = "\xff\xff", .descriptors = {}}).ok());
}

TEST(AttachmentTest, RefusesAnotherNumberOfDescriptorsThanAnnounced) {
  SocketMessage message = Message(GoodRequest());
  message.descriptors.pop_back();
  EXPECT_THAT(std::string(ParseAttachRequest(Device(), std::move(message)).status().message()),
              HasSubstr("12 descriptors announced, 11 received"));
}

// The limit that a process with these resources ends up with, soft and hard, as "4096 4096".
std::string FileSizeLimit(const std::vector<std::pair<std::string, int>>& files) {
  const Pipe pipe = *CreatePipe();
  EXPECT_TRUE(HoldsInChild([&] {
    std::vector<Attachment::Resource> resources;
    for (const auto& [path, mode] : files) {
      resources.push_back({.name = path, .fd = UniqueFd(open(path.c_str(), mode | O_CLOEXEC))});
    }
    resources.push_back({.name = "no file", .fd = UniqueFd(dup(pipe.write_end.get()))});
    const rlimit before = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
    if (setrlimit(RLIMIT_FSIZE, &before) != 0 || !ForbidFileGrowth(resources).ok()) return false;
    rlimit limit{};
    getrlimit(RLIMIT_FSIZE, &limit);
    const std::string text = absl::StrCat(limit.rlim_cur, " ", limit.rlim_max);
    // To a pipe, which has no such limit.
    return write(pipe.write_end.get(), text.data(), text.size()) == static_cast<int>(text.size());
  }));
  char text[64] = "";
  return std::string(text, static_cast<size_t>(read(pipe.read_end.get(), text, sizeof(text))));
}

TEST(ForbidFileGrowthTest, TheLargestWritableFileIsTheLimit) {
  const std::string small = WriteTempFile("small", std::string(512, 'x'));
  const std::string large = WriteTempFile("large", std::string(8192, 'x'));
  const std::string larger = WriteTempFile("larger", std::string(2 << 20, 'x'));
  EXPECT_EQ(FileSizeLimit({{large, O_RDWR}, {small, O_RDWR}, {larger, O_RDONLY}}), "8192 8192");
  EXPECT_EQ(FileSizeLimit({{larger, O_RDWR}}), "1048576 1048576") << "it was raised";
  EXPECT_EQ(FileSizeLimit({{large, O_RDONLY}}), "0 0");
  EXPECT_EQ(FileSizeLimit({}), "0 0");
}

TEST(ForbidFileGrowthTest, AFileCanBeWrittenUpToItsEndAndNoFurther) {
  const std::string path = WriteTempFile("image", std::string(8192, 'x'));
  EXPECT_TRUE(HoldsInChild([&path] {
    signal(SIGXFSZ, SIG_IGN);  // as in each device process
    std::vector<Attachment::Resource> resources;
    resources.push_back({.name = "disk", .fd = UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC))});
    const int fd = resources[0].fd.get();
    return ForbidFileGrowth(resources).ok() && pwrite(fd, "yy", 2, 8190) == 2 &&
           pwrite(fd, "y", 1, 8192) < 0 && errno == EFBIG && ftruncate(fd, 8193) != 0 &&
           fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192) == 0;
  }));
}

TEST(MapGuestMemoryTest, RefusesARangeBeyondItsFile) {
  std::vector<Attachment::GuestMemoryRange> ranges;
  ranges.push_back({.start = 0,
                    .offset = 0x1000,
                    .size_bytes = 0x10000,
                    .memfd = *CreateMemfd("test", 0x10000)});
  EXPECT_THAT(std::string(MapGuestMemory(ranges).status().message()), HasSubstr("passes the end"));
  ranges[0].offset = ~uint64_t{0};
  EXPECT_FALSE(MapGuestMemory(ranges).ok());
}

TEST(MapGuestMemoryTest, RefusesRangesThatOverlap) {
  std::vector<Attachment::GuestMemoryRange> ranges;
  for (const GuestAddress start : {0x0, 0x8000}) {
    ranges.push_back({.start = start,
                      .offset = 0,
                      .size_bytes = 0x10000,
                      .memfd = *CreateMemfd("test", 0x10000)});
  }
  EXPECT_FALSE(MapGuestMemory(ranges).ok());
}

}  // namespace
}  // namespace bulkhead::devices
