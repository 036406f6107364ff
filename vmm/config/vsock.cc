#include "vmm/config/vsock.h"

#include <stdint.h>
#include <sys/un.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace bulkhead::vmm {
namespace {

// As the device has them: 0 to 2 and 2^32 - 1 are reserved (virtio 1.2, section 5.10.4).
constexpr uint32_t kMinCid = 3;
constexpr uint32_t kMaxCid = 0xfffffffe;

// The longest end of a port's socket.
constexpr absl::string_view kLongestEnd = "_4294967295";

}  // namespace

std::string ProblemOfVsockSocket(const std::string& path) {
  constexpr size_t kLongest = sizeof(sockaddr_un::sun_path) - 1 - kLongestEnd.size();
  if (path.empty()) return "missing; give the path of a unix socket";
  if (path.size() <= kLongest) return "";
  return absl::StrCat("\"", path, "\" is too long: ", path.size(), " bytes, at most ", kLongest,
                      ", since the sockets of ports have \"_PORT\" behind it");
}

std::optional<VsockPlace> FindVsock(const v1::VmConfig& config) {
  for (int i = 0; i < config.devices_size(); ++i) {
    for (const v1::ResourceConfig& resource : config.devices(i).resources()) {
      if (!resource.has_vsock()) continue;
      return VsockPlace{.socket = resource.vsock().socket(),
                        .device = static_cast<size_t>(i),
                        .resource = resource.name()};
    }
  }
  return std::nullopt;
}

bool VsockFlag::Take(absl::string_view part) {
  if (absl::ConsumePrefix(&part, "cid=")) {
    cid_ = std::string(part);
    return true;
  }
  if (!absl::ConsumePrefix(&part, "socket=")) return false;
  socket_ = std::string(part);
  return true;
}

std::string VsockFlag::Fill(v1::DeviceConfig& device) const {
  uint32_t cid = 0;
  if (cid_.empty()) {
    return absl::StrCat("cid=N is missing; give the guest's address, ", kMinCid, " to ", kMaxCid);
  }
  if (!absl::SimpleAtoi(cid_, &cid)) {
    return absl::StrCat("cid=", cid_, " is not a whole number (", kMinCid, " to ", kMaxCid, ")");
  }
  if (cid < kMinCid || cid > kMaxCid) {
    return absl::StrCat("cid=", cid_, " is out of range (", kMinCid, " to ", kMaxCid, ")");
  }
  if (const std::string problem = ProblemOfVsockSocket(socket_); !problem.empty()) {
    return absl::StrCat("socket=PATH: ", problem);
  }
  device.set_binary("virtio_vsock");
  device.add_arg(absl::StrCat("--cid=", cid));
  v1::ResourceConfig& host = *device.add_resources();
  host.set_name("host");
  host.mutable_vsock()->set_socket(socket_);
  return "";
}

}  // namespace bulkhead::vmm
