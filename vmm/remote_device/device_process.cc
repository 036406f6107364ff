#include "vmm/remote_device/device_process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/errno_status.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "proto/attach.pb.h"
#include "proto/contract.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kMaxReplyBytes = 4096;

// A device's environment is empty, but for the options of a sanitizer that it is built with.
std::vector<std::string> DeviceEnvironment() {
  std::vector<std::string> environment;
  for (const char* name : {"ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"}) {
    if (const char* value = getenv(name)) environment.push_back(absl::StrCat(name, "=", value));
  }
  return environment;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceProcess>> DeviceProcess::Start(
    ProcessMonitor& monitor, const std::string& binary, const std::vector<std::string>& args,
    std::shared_ptr<ProcessObserver> observer) {
  static_assert(kAttachSocketFd == 3 && kControlSocketFd == 4);
  const UniqueFd standard_input(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!standard_input.ok()) return ErrnoToStatus(errno, "open /dev/null");
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) return ErrnoToStatus(errno, "pipe2");
  UniqueFd output_read(output[0]);
  const UniqueFd output_write(output[1]);
  // Not of the write end: a device's write waits for the vmm to read.
  if (fcntl(output_read.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoToStatus(errno, "fcntl");
  ASSIGN_OR_RETURN(auto attach, CreateSocketPair(SOCK_SEQPACKET));
  ASSIGN_OR_RETURN(auto control, CreateSocketPair(SOCK_STREAM));

  const ProcessSpec spec = {
      .binary = binary,
      .args = args,
      .environment = DeviceEnvironment(),
      .descriptors = {standard_input.get(), output_write.get(), output_write.get(),
                      attach.second.get(), control.second.get()}};
  ASSIGN_OR_RETURN(auto client, ControlClient::Create(std::move(control.first)));
  ASSIGN_OR_RETURN(auto process, monitor.Start(spec, std::move(output_read), std::move(observer)));
  return std::unique_ptr<DeviceProcess>(
      new DeviceProcess(std::move(process), std::move(attach.first), std::move(client)));
}

DeviceProcess::~DeviceProcess() { Kill(); }

absl::StatusOr<DeviceDescription> DeviceProcess::Describe(absl::Duration timeout) {
  ASSIGN_OR_RETURN(const v1::PciInfo info, control_->GetPciInfo(timeout));
  return ValidatePciInfo(info);
}

absl::Status DeviceProcess::Attach(const DeviceEndpoints& endpoints, absl::string_view device_name,
                                   uint64_t generation, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  const DeviceEndpoints::Offer offer = endpoints.MakeOffer(device_name, generation);
  RETURN_IF_ERROR(SendSocketMessage(attach_socket_.get(), offer.request.SerializeAsString(),
                                    offer.descriptors));
  ASSIGN_OR_RETURN(const SocketMessage message,
                   ReceiveSocketMessage(attach_socket_.get(), kMaxReplyBytes, deadline));
  v1::AttachReply reply;
  if (!reply.ParseFromString(message.bytes)) {
    return absl::InvalidArgumentError("its reply to the attach request is not one");
  }
  if (!reply.error().empty()) return absl::FailedPreconditionError(reply.error());
  if (reply.generation() != generation) {
    return absl::InvalidArgumentError(
        absl::StrCat("it replied for generation ", reply.generation(), " instead of ", generation));
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
