#include "vmm/config/share_flag.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "vmm/config/device_flags.h"

namespace bulkhead::vmm {
namespace {

constexpr char kFlag[] = "--share";
// It insists on all that it wants to keep, and vmm/back_end does not leave it these.
constexpr char kDroppedCapabilities[] = "-mknod:-setfcap";
constexpr size_t kMaxTagBytes = 36;  // virtio 1.2, section 5.11.4

// Without links: the program sees the folder alone, not what leads to it.
std::string RealPath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(path, error);
  return error ? std::filesystem::absolute(path).string() : real.string();
}

}  // namespace

absl::StatusOr<std::string> FindVirtiofsd(absl::Span<const absl::string_view> places) {
  for (const absl::string_view place : places) {
    if (std::string path(place); access(path.c_str(), X_OK) == 0) return path;
  }
  return absl::NotFoundError(
      absl::StrCat("virtiofsd is missing (", absl::StrJoin(places, ", "),
                   "); install Debian's package virtiofsd, or qemu-system-common on Debian 12"));
}

v1::BackEnd ServeFolder(const std::string& program, const std::string& path, bool read_only) {
  v1::BackEnd back_end;
  back_end.set_binary(program);
  back_end.set_serves_folder(true);
  back_end.add_arg("--fd={socket}");
  back_end.add_arg("--rlimit-nofile=0");  // as vmm/back_end sets it
  if (program == kQemuVirtiofsd) {
    back_end.add_arg("-f");
    back_end.add_arg("-o");
    // Its other sandbox makes namespaces and a process, which ours forbids.
    back_end.add_arg(absl::StrCat(
        "sandbox=chroot,modcaps=", kDroppedCapabilities,
        ",log_level=warn,source=", absl::StrReplaceAll(path, {{"\\", "\\\\"}, {",", "\\,"}})));
  } else {
    back_end.add_arg("--sandbox=none");
    back_end.add_arg(absl::StrCat("--modcaps=", kDroppedCapabilities));
    back_end.add_arg("--inode-file-handles=never");
    back_end.add_arg("--log-level=warn");
    back_end.add_arg(absl::StrCat("--shared-dir=", path));
  }
  v1::BackEndFile& file = *back_end.add_file();
  file.set_path(path);
  file.set_read_only(read_only);
  return back_end;
}

absl::Status ParseShare(absl::string_view text, CommandLine& line) {
  v1::DeviceConfig device;
  std::string name, path, tag;
  bool read_only = false;
  for (const std::string& part : SplitParts(text)) {
    ASSIGN_OR_RETURN(const bool taken, ParseSupervision(kFlag, part, device));
    if (taken) continue;
    absl::string_view value = part;
    if (absl::ConsumePrefix(&value, "path=")) {
      path = std::string(value);
    } else if (absl::ConsumePrefix(&value, "tag=")) {
      tag = std::string(value);
    } else if (value == "readonly") {
      read_only = true;
    } else if (absl::ConsumePrefix(&value, "name=")) {
      name = std::string(value);
    } else if (absl::ConsumePrefix(&value, "slot=")) {
      RETURN_IF_ERROR(ParseSlot(kFlag, value, device));
    } else {
      return FlagError(kFlag, absl::StrCat("\"", part, "\" is unknown; give path=DIR, tag=NAME, ",
                                           "readonly, name=NAME, slot=N, restart=, policy=, ",
                                           "heartbeat=, spare"));
    }
  }
  if (path.empty()) return FlagError(kFlag, "path=DIR is missing: the folder to be shared");
  if (tag.empty()) {
    return FlagError(kFlag, "tag=NAME is missing: the name by which the guest mounts it");
  }
  if (tag.size() > kMaxTagBytes) {
    return FlagError(kFlag, absl::StrCat("tag=", tag, " is too long: ", tag.size(),
                                         " bytes, at most ", kMaxTagBytes));
  }
  path = RealPath(path);
  if (path == "/") return FlagError(kFlag, "path=/ is all of the host; give a folder below it");
  const absl::StatusOr<std::string> program = FindVirtiofsd(kVirtiofsdPlaces);
  if (!program.ok()) return FlagError(kFlag, program.status().message());
  device.set_name(!name.empty() ? name : FreeName(line, "share"));
  device.set_binary("vhost_user");
  device.add_arg("--type=fs");
  // So that no request is lost with virtiofsd: the next one answers it, with an error.
  device.add_arg("--relay");
  device.add_arg(absl::StrCat("--tag=", tag));
  v1::ResourceConfig& resource = *device.add_resources();
  resource.set_name("back_end");
  *resource.mutable_back_end() = ServeFolder(*program, path, read_only);
  AddDevice(line, kFlag) = std::move(device);
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
