#include "devices/host/attachment.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/memory_mapping.h"
#include "base/status_macros.h"
#include "proto/contract.h"

namespace bulkhead::devices {
namespace {

using Kind = v1::Descriptor;

// The vmm has at most one waiter a vCPU and one for itself; this is far beyond.
constexpr uint32_t kMaxWaiters = 128;
// The processor's page tables can map so much at once, if it is aligned here as in the file.
constexpr uint64_t kHugePageBytes = 2 << 20;
constexpr uint64_t kGiantPageBytes = 1 << 30;

template <typename... Args>
absl::Status Refuse(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("attach request: ", args...));
}

// Puts a descriptor of which there is one.
absl::Status PutOnly(absl::string_view what, UniqueFd fd, UniqueFd& place) {
  if (place.ok()) return Refuse("two descriptors for ", what);
  place = std::move(fd);
  return absl::OkStatus();
}

// Puts descriptor `index` of a series.
absl::Status PutAt(absl::string_view what, UniqueFd fd, uint32_t index,
                   std::vector<UniqueFd>& places) {
  if (index >= places.size()) {
    return Refuse(what, " ", index, " is beyond the ", places.size(), " that there are");
  }
  if (places[index].ok()) return Refuse("two descriptors for ", what, " ", index);
  places[index] = std::move(fd);
  return absl::OkStatus();
}

absl::Status CheckComplete(absl::string_view what, const std::vector<UniqueFd>& places) {
  for (size_t i = 0; i < places.size(); ++i) {
    if (!places[i].ok()) return Refuse("no descriptor for ", what, " ", i);
  }
  return absl::OkStatus();
}

absl::Status CheckLine(absl::string_view what, bool wanted, const UniqueFd& fd) {
  if (wanted == fd.ok()) return absl::OkStatus();
  return Refuse(what, wanted ? " is missing" : " was given, but the device has none");
}

std::vector<EventFd> ToEvents(std::vector<UniqueFd> fds) {
  std::vector<EventFd> events;
  events.reserve(fds.size());
  for (UniqueFd& fd : fds) events.emplace_back(std::move(fd));
  return events;
}

absl::Status PutGuestMemory(const v1::Descriptor& descriptor, UniqueFd fd, Attachment& out) {
  if (descriptor.size_bytes() == 0) return Refuse("a guest memory range is empty");
  if (descriptor.read_only()) return Refuse("read-only guest memory is not supported");
  out.guest_memory.push_back({.start = descriptor.guest_address(),
                              .offset = descriptor.offset(),
                              .size_bytes = descriptor.size_bytes(),
                              .memfd = std::move(fd),
                              .page_bytes = descriptor.page_bytes(),
                              .transparent_huge_pages = descriptor.transparent_huge_pages()});
  return absl::OkStatus();
}

absl::Status PutResource(const v1::Descriptor& descriptor, UniqueFd fd, Attachment& out) {
  if (descriptor.name().empty()) return Refuse("a resource has no name");
  for (const Attachment::Resource& other : out.resources) {
    if (other.name == descriptor.name()) return Refuse("two resources '", other.name, "'");
  }
  out.resources.push_back({descriptor.name(), std::move(fd), descriptor.writeback_failed()});
  return absl::OkStatus();
}

// So that `count` descriptors more can be received, if the hard limit lets them.
void AllowDescriptors(size_t count) {
  constexpr size_t kOthers = 256;  // what this process has open for itself
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= count + kOthers) return;
  if (limit.rlim_cur == limit.rlim_max) return;  // a sandbox does not even let it be tried
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, count + kOthers);
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

absl::StatusOr<SocketMessage> ReceiveAttachRequest(int attach_socket, absl::Duration timeout) {
  ASSIGN_OR_RETURN(SocketMessage message,
                   ReceiveSocketMessage(attach_socket, kMaxAttachRequestBytes, timeout));
  v1::AttachRequest request;
  // Not a request: ParseAttachRequest() says so.
  if (!request.ParseFromString(message.bytes)) return message;
  const size_t announced = request.descriptors_size();
  if (announced > kMaxMessageDescriptors) AllowDescriptors(announced);
  while (message.descriptors.size() < announced) {
    ASSIGN_OR_RETURN(SocketMessage more,
                     ReceiveSocketMessage(attach_socket, /*max_bytes=*/1, timeout));
    if (more.descriptors.empty()) break;  // too few: likewise
    std::move(more.descriptors.begin(), more.descriptors.end(),
              std::back_inserter(message.descriptors));
  }
  return message;
}

absl::StatusOr<Attachment> ParseAttachRequest(const v1::DeviceInfo& info, SocketMessage message) {
  v1::AttachRequest request;
  if (!request.ParseFromString(message.bytes)) return Refuse("not a protobuf message");
  if (request.contract_version() != kContractVersion) {
    return Refuse("the vmm speaks contract version ", request.contract_version(), ", this device ",
                  kContractVersion, ": build both from one source");
  }
  if (static_cast<size_t>(request.descriptors_size()) != message.descriptors.size()) {
    return Refuse(request.descriptors_size(), " descriptors announced, ",
                  message.descriptors.size(), " received");
  }
  if (request.generation() == 0) return Refuse("generation 0");
  const uint32_t waiters = request.channel().waiters();
  if (waiters == 0 || waiters > kMaxWaiters) return Refuse(waiters, " waiters");

  Attachment out;
  out.generation = request.generation();
  out.device_name = request.device_name();
  out.function_state = request.function_state();
  out.seccomp_filter = request.seccomp_filter();
  out.channel = request.channel();
  out.completion_events.resize(waiters);
  std::vector<UniqueFd> doorbells(info.doorbells_size());
  // A description asks for at most 2048; a message that lacks any of them is refused below.
  std::vector<UniqueFd> msix_vectors(info.has_pci() ? info.pci().msix_vectors() : 0);

  for (size_t i = 0; i < message.descriptors.size(); ++i) {
    const v1::Descriptor& descriptor = request.descriptors(static_cast<int>(i));
    UniqueFd fd = std::move(message.descriptors[i]);
    absl::Status status;
    switch (descriptor.kind()) {
      case Kind::CHANNEL_REQUEST_MEMORY:
        status = PutOnly("the request memory", std::move(fd), out.request_memory);
        break;
      case Kind::CHANNEL_RESPONSE_MEMORY:
        status = PutOnly("the response memory", std::move(fd), out.response_memory);
        break;
      case Kind::CHANNEL_REQUEST_EVENT:
        status = PutOnly("the request event", std::move(fd), out.request_event);
        break;
      case Kind::CHANNEL_COMPLETION_EVENT:
        status =
            PutAt("completion event", std::move(fd), descriptor.index(), out.completion_events);
        break;
      case Kind::GUEST_MEMORY:
        status = PutGuestMemory(descriptor, std::move(fd), out);
        break;
      case Kind::DOORBELL:
        status = PutAt("doorbell", std::move(fd), descriptor.index(), doorbells);
        break;
      case Kind::MSIX_VECTOR:
        status = PutAt("MSI-X vector", std::move(fd), descriptor.index(), msix_vectors);
        break;
      case Kind::INTX:
        status = PutOnly("the interrupt line", std::move(fd), out.intx);
        break;
      case Kind::INTX_RESAMPLE:
        status = PutOnly("the interrupt line's resample event", std::move(fd), out.intx_resample);
        break;
      case Kind::RESOURCE:
        status = PutResource(descriptor, std::move(fd), out);
        break;
      case Kind::DURABLE_STATE:
        status = PutOnly("the durable state", std::move(fd), out.durable_state);
        break;
      default:
        status =
            Refuse("descriptor ", i, " has the unknown kind ", static_cast<int>(descriptor.kind()));
    }
    RETURN_IF_ERROR(status);
  }

  if (!out.request_memory.ok()) return Refuse("no request memory");
  if (!out.response_memory.ok()) return Refuse("no response memory");
  if (!out.request_event.ok()) return Refuse("no request event");
  if (info.uses_dma() && out.guest_memory.empty()) return Refuse("no guest memory");
  if (!info.uses_dma() && !out.guest_memory.empty()) {
    return Refuse("guest memory was given, but the device does no DMA");
  }
  const bool keeps_state = info.saved_state_bytes() != 0 || info.durable_memory_bytes() != 0;
  if (keeps_state && !out.durable_state.ok()) return Refuse("no durable state");
  RETURN_IF_ERROR(CheckComplete("completion event", out.completion_events));
  RETURN_IF_ERROR(CheckComplete("doorbell", doorbells));
  RETURN_IF_ERROR(CheckComplete("MSI-X vector", msix_vectors));
  const bool has_pci_line = info.has_pci() && info.pci().has_intx();
  const bool has_platform_line = info.has_platform() && info.platform().irq() != 0;
  RETURN_IF_ERROR(CheckLine("the interrupt line", has_pci_line || has_platform_line, out.intx));
  RETURN_IF_ERROR(
      CheckLine("the interrupt line's resample event", has_pci_line, out.intx_resample));
  for (const std::string& name : info.required_resources()) {
    if (std::none_of(out.resources.begin(), out.resources.end(),
                     [&](const Attachment::Resource& r) { return r.name == name; })) {
      return Refuse("the resource '", name, "' is missing");
    }
  }
  out.doorbells = ToEvents(std::move(doorbells));
  out.msix_vectors = ToEvents(std::move(msix_vectors));
  return out;
}

absl::Status ForbidFileGrowth(absl::Span<const Attachment::Resource> resources) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0) return ErrnoToStatus(errno, "RLIMIT_FSIZE");
  rlim_t largest = 0;
  for (const Attachment::Resource& resource : resources) {
    struct stat file;
    if (fstat(resource.fd.get(), &file) != 0) return ErrnoToStatus(errno, "fstat of a resource");
    const bool writable = (fcntl(resource.fd.get(), F_GETFL) & O_ACCMODE) != O_RDONLY;
    if (S_ISREG(file.st_mode) && writable) {
      largest = std::max(largest, static_cast<rlim_t>(file.st_size));
    }
  }
  limit.rlim_max = std::min(limit.rlim_max, largest);
  limit.rlim_cur = std::min(limit.rlim_cur, limit.rlim_max);
  if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return ErrnoToStatus(errno, "RLIMIT_FSIZE");
  return absl::OkStatus();
}

absl::StatusOr<GuestMemory> MapGuestMemory(absl::Span<const Attachment::GuestMemoryRange> ranges) {
  std::vector<GuestMemory::Range> mapped;
  for (const Attachment::GuestMemoryRange& range : ranges) {
    struct stat file;
    if (fstat(range.memfd.get(), &file) != 0) return ErrnoToStatus(errno, "fstat of guest memory");
    // Beyond the end of the file every access would be a SIGBUS.
    const uint64_t file_size = static_cast<uint64_t>(std::max<off_t>(file.st_size, 0));
    if (range.offset > file_size || range.size_bytes > file_size - range.offset) {
      return Refuse("guest memory passes the end of its file of ", file_size, " bytes");
    }
    const uint64_t alignment =
        range.page_bytes == kGiantPageBytes ? kGiantPageBytes : kHugePageBytes;
    const bool fits = range.offset % alignment == 0 && range.size_bytes >= alignment;
    ASSIGN_OR_RETURN(
        MemoryMapping mapping,
        MemoryMapping::Map(range.memfd.get(), range.offset, range.size_bytes,
                           MemoryMapping::Protection::kReadWrite, fits ? alignment : 1));
    // Without it what this process touches first becomes a small page, for the guest, too.
    if (range.transparent_huge_pages) madvise(mapping.data(), mapping.size(), MADV_HUGEPAGE);
    mapped.push_back({range.start, std::move(mapping)});
  }
  return GuestMemory::Create(std::move(mapped));
}

bool HaveHugePages(absl::Span<const Attachment::GuestMemoryRange> ranges) {
  return std::all_of(ranges.begin(), ranges.end(), [](const Attachment::GuestMemoryRange& range) {
    return range.page_bytes >= kHugePageBytes;
  });
}

}  // namespace bulkhead::devices
