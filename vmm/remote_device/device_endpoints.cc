#include "vmm/remote_device/device_endpoints.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/memory_mapping.h"
#include "base/shared_file.h"
#include "base/status_macros.h"
#include "proto/contract.h"
#include "proto/durable_layout.h"

namespace bulkhead::vmm {

absl::Status CheckResources(const DeviceDescription& description,
                            const std::vector<ResourceSpec>& resources) {
  for (const std::string& name : description.required_resources) {
    if (std::none_of(resources.begin(), resources.end(),
                     [&](const ResourceSpec& r) { return r.name == name; })) {
      return absl::InvalidArgumentError(absl::StrCat("it needs the resource '", name,
                                                     "', which is missing in the configuration"));
    }
  }
  return absl::OkStatus();
}

namespace {

// Beside doorbells and interrupts, of which each is one.
constexpr size_t kOtherFiles = 64;

// Without this the device would be refused by an eventfd(2), as if for a moment.
absl::Status CheckOpenFiles(size_t doorbells, size_t interrupts) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoToStatus(errno, "getrlimit");
  if (doorbells + interrupts + kOtherFiles <= limit.rlim_cur) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "it has ", doorbells, " doorbells and ", interrupts,
      " interrupts, each an open file, but a process may have ", limit.rlim_cur,
      " (RLIMIT_NOFILE): raise the hard limit, by \"ulimit -Hn\" or LimitNOFILE= of a systemd "
      "unit"));
}

absl::StatusOr<std::vector<EventFd>> CreateEvents(size_t count) {
  std::vector<EventFd> events;
  events.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
    events.push_back(std::move(event));
  }
  return events;
}

v1::Descriptor& AddDescriptor(AttachOffer& offer, v1::Descriptor::Kind kind, int fd) {
  offer.descriptors.push_back(fd);
  v1::Descriptor& descriptor = *offer.request.add_descriptors();
  descriptor.set_kind(kind);
  return descriptor;
}

absl::Status AddResource(absl::string_view device_name, const ResourceSpec& resource,
                         AttachOffer& offer) {
  int fd = -1;
  bool writeback_failed = false;
  if (resource.file != nullptr) {
    ASSIGN_OR_RETURN(UniqueFd file, resource.file->TakeForProcess());
    fd = file.get();
    offer.own_files.emplace_back(*resource.file, std::move(file));
    // After the open: the process learns of later failures from its own file description.
    writeback_failed = resource.file->HasWritebackFailure();
    if (writeback_failed) {
      LogWarning(absl::StrCat("device '", device_name,
                              "': the host could not write back data to \"", resource.file->path(),
                              "\": the guest's next flush fails"));
    }
  } else if (resource.connect) {
    fd = resource.connect();
  }
  if (fd < 0) {
    return absl::UnavailableError(
        absl::StrCat("its resource '", resource.name, "' could not be connected again"));
  }
  v1::Descriptor& descriptor = AddDescriptor(offer, v1::Descriptor::RESOURCE, fd);
  descriptor.set_name(resource.name);
  descriptor.set_read_only(resource.read_only);
  descriptor.set_writeback_failed(writeback_failed);
  return absl::OkStatus();
}

}  // namespace

DeviceEndpoints::DeviceEndpoints(std::unique_ptr<channel::ChannelClient> channel,
                                 std::vector<ResourceSpec> resources, const GuestRam* ram)
    : channel_(std::move(channel)), resources_(std::move(resources)), ram_(ram) {}

absl::StatusOr<DeviceEndpoints> DeviceEndpoints::Create(
    const DeviceDescription& description, std::vector<ResourceSpec> resources, const GuestRam& ram,
    const channel::ChannelOptions& channel_options) {
  RETURN_IF_ERROR(CheckResources(description, resources));
  const std::optional<DeviceDescription::PciFunction>& pci = description.pci;
  const size_t vectors = pci.has_value() ? pci->msix_vectors : 0;
  RETURN_IF_ERROR(CheckOpenFiles(description.doorbells.size(), vectors));
  const bool has_resample = pci.has_value() && pci->has_intx;
  const bool keeps_state =
      description.saved_state_bytes != 0 || description.durable_memory_bytes != 0;
  ASSIGN_OR_RETURN(auto channel, channel::ChannelClient::Create(channel_options));
  DeviceEndpoints endpoints(std::move(channel), std::move(resources),
                            description.uses_dma ? &ram : nullptr);
  if (keeps_state) {
    endpoints.durable_state_bytes_ =
        durable::SizeBytes(description.saved_state_bytes, description.durable_memory_bytes);
    ASSIGN_OR_RETURN(endpoints.durable_state_,
                     CreateMemfd("bulkhead-durable", endpoints.durable_state_bytes_));
    // F_SEAL_SEAL: a seal added by a device would harm its successor.
    RETURN_IF_ERROR(
        AddSeals(endpoints.durable_state_.get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  }
  ASSIGN_OR_RETURN(endpoints.doorbells_, CreateEvents(description.doorbells.size()));
  ASSIGN_OR_RETURN(endpoints.msix_vectors_, CreateEvents(vectors));
  if (description.has_line()) {
    ASSIGN_OR_RETURN(endpoints.intx_, EventFd::Create());
  }
  if (has_resample) {
    ASSIGN_OR_RETURN(endpoints.intx_resample_, EventFd::Create());
  }
  return endpoints;
}

void DeviceEndpoints::DrainEvents() const {
  for (const EventFd& doorbell : doorbells_) doorbell.Drain();
  for (const EventFd& vector : msix_vectors_) vector.Drain();
  if (intx_.fd() >= 0) intx_.Drain();
  if (intx_resample_.fd() >= 0) intx_resample_.Drain();
}

bool DeviceEndpoints::EarlierIoHasEnded() const {
  bool ended = true;
  for (const ResourceSpec& resource : resources_) {
    if (resource.file != nullptr && !resource.file->EarlierIoHasEnded()) ended = false;
  }
  return ended;
}

absl::Status DeviceEndpoints::ResizeFile(uint64_t bytes) const {
  HostFile* only = nullptr;
  for (const ResourceSpec& resource : resources_) {
    if (resource.file == nullptr) continue;
    if (only != nullptr) return absl::FailedPreconditionError("it has several files");
    only = resource.file.get();
  }
  if (only == nullptr) return absl::FailedPreconditionError("it has no file");
  return only->Resize(bytes);
}

void DeviceEndpoints::AcceptFileSizes() const {
  for (const ResourceSpec& resource : resources_) {
    if (resource.file != nullptr) resource.file->AcceptSize();
  }
}

void DeviceEndpoints::OnAttached() const {
  for (const ResourceSpec& resource : resources_) {
    if (resource.file != nullptr) resource.file->ForgetWritebackFailure();
  }
}

void DeviceEndpoints::ResetSharedFiles() const {
  if (ram_ != nullptr) ResetSharedMemfd(ram_->memfd());
  ResetSharedMemfd(durable_state_.get());
  const auto reset = [](const EventFd& event) { ResetSharedFile(event.fd(), O_NONBLOCK); };
  std::for_each(doorbells_.begin(), doorbells_.end(), reset);
  std::for_each(msix_vectors_.begin(), msix_vectors_.end(), reset);
  reset(intx_);
  reset(intx_resample_);
}

absl::StatusOr<AttachOffer> DeviceEndpoints::MakeOffer(absl::string_view device_name,
                                                       uint64_t generation,
                                                       uint64_t function_state) const {
  ResetSharedFiles();
  const channel::ChannelOptions options = channel_->options();
  AttachOffer offer;
  offer.request.set_contract_version(kContractVersion);
  offer.request.set_generation(generation);
  offer.request.set_device_name(std::string(device_name));
  offer.request.set_function_state(function_state);
  offer.request.mutable_channel()->set_slots(options.slots);
  offer.request.mutable_channel()->set_waiters(options.waiters);
  offer.request.mutable_channel()->set_max_poll_ns(
      static_cast<uint32_t>(absl::ToInt64Nanoseconds(options.max_poll)));

  AddDescriptor(offer, v1::Descriptor::CHANNEL_REQUEST_MEMORY, channel_->request_memory_fd());
  AddDescriptor(offer, v1::Descriptor::CHANNEL_RESPONSE_MEMORY, channel_->response_memory_fd());
  AddDescriptor(offer, v1::Descriptor::CHANNEL_REQUEST_EVENT, channel_->request_event_fd());
  for (uint32_t i = 0; i < options.waiters; ++i) {
    AddDescriptor(offer, v1::Descriptor::CHANNEL_COMPLETION_EVENT, channel_->completion_event_fd(i))
        .set_index(i);
  }
  if (ram_ != nullptr) {
    for (const GuestRam::Block& block : ram_->blocks()) {
      v1::Descriptor& memory = AddDescriptor(offer, v1::Descriptor::GUEST_MEMORY, ram_->memfd());
      memory.set_guest_address(block.start);
      memory.set_offset(block.file_offset);
      memory.set_size_bytes(block.size_bytes);
      memory.set_page_bytes(ram_->backing().page_bytes());
      memory.set_transparent_huge_pages(ram_->backing().huge_pages ==
                                        RamBacking::HugePages::kTransparent);
    }
  }
  for (size_t i = 0; i < doorbells_.size(); ++i) {
    AddDescriptor(offer, v1::Descriptor::DOORBELL, doorbells_[i].fd())
        .set_index(static_cast<uint32_t>(i));
  }
  for (size_t i = 0; i < msix_vectors_.size(); ++i) {
    AddDescriptor(offer, v1::Descriptor::MSIX_VECTOR, msix_vectors_[i].fd())
        .set_index(static_cast<uint32_t>(i));
  }
  if (intx_.fd() >= 0) AddDescriptor(offer, v1::Descriptor::INTX, intx_.fd());
  if (intx_resample_.fd() >= 0) {
    AddDescriptor(offer, v1::Descriptor::INTX_RESAMPLE, intx_resample_.fd());
  }
  if (durable_state_.ok()) {
    AddDescriptor(offer, v1::Descriptor::DURABLE_STATE, durable_state_.get())
        .set_size_bytes(durable_state_bytes_);
  }
  for (const ResourceSpec& resource : resources_) {
    RETURN_IF_ERROR(AddResource(device_name, resource, offer));
  }
  return offer;
}

absl::Status DeviceEndpoints::DiscardDurableState() const {
  if (!durable_state_.ok()) return absl::OkStatus();
  ResetSharedMemfd(durable_state_.get());
  uint32_t owed = 0;
  if (pread(durable_state_.get(), &owed, sizeof(owed), durable::kOwedFailureOffset) ==
          sizeof(owed) &&
      owed != 0) {
    for (const ResourceSpec& resource : resources_) {
      if (resource.file != nullptr) resource.file->RememberWritebackFailure();
    }
  }
  if (fallocate(durable_state_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                static_cast<off_t>(durable_state_bytes_)) == 0) {
    return absl::OkStatus();
  }
  return ErrnoToStatus(errno, "zeroing the durable state");
}

}  // namespace bulkhead::vmm
