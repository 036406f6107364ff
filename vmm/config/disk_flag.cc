#include "vmm/config/disk_flag.h"

#include <stdint.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "vmm/config/device_flags.h"

namespace bulkhead::vmm {
namespace {

constexpr char kFlag[] = "--disk";
constexpr char kStorageDaemon[] = "/usr/bin/qemu-storage-daemon";

struct Disk {
  std::string path;
  bool read_only = false;
  bool direct = false;
  std::vector<std::string> backing;
};

// As a value among qemu-storage-daemon's options.
std::string Value(const std::string& text) { return absl::StrReplaceAll(text, {{",", ",,"}}); }

void ServeQcow2(const Disk& disk, v1::DeviceConfig& device) {
  device.set_binary("vhost_user");
  device.add_arg("--type=blk");
  device.add_arg("--relay");
  v1::ResourceConfig& resource = *device.add_resources();
  resource.set_name("back_end");
  v1::BackEnd& back_end = *resource.mutable_back_end();
  back_end.set_binary(kStorageDaemon);
  const std::string path = std::filesystem::absolute(disk.path).string();
  const std::string common =
      absl::StrCat(",discard=unmap,read-only=", disk.read_only ? "on" : "off");
  back_end.add_arg("--blockdev");
  back_end.add_arg(absl::StrCat("driver=file,node-name=file,filename=", Value(path), common,
                                disk.direct ? ",cache.direct=on" : ""));
  back_end.add_arg("--blockdev");
  back_end.add_arg(absl::StrCat("driver=qcow2,node-name=disk,file=file", common,
                                disk.direct ? ",cache.direct=on" : ""));
  // The daemon keeps the image's tables in its own memory until the guest flushes: without
  // writethrough its death would lose writes that the guest, which lives on, takes for done.
  back_end.add_arg("--export");
  back_end.add_arg(
      absl::StrCat("type=vhost-user-blk,id=disk,addr.type=fd,addr.str={socket},node-name=disk,",
                   disk.read_only ? "writable=off" : "writable=on,writethrough=on"));
  const auto add_file = [&back_end](const std::string& file_path, bool read_only) {
    v1::BackEndFile& file = *back_end.add_file();
    file.set_path(file_path);
    file.set_read_only(read_only);
  };
  add_file(disk.path, disk.read_only);
  for (const std::string& backing : disk.backing) add_file(backing, /*read_only=*/true);
}

}  // namespace

absl::Status ParseDisk(absl::string_view text, CommandLine& line) {
  std::string name = FreeName(line, "disk");
  v1::DeviceConfig device;
  Disk disk;
  std::string format;
  bool shared = false;
  bool pause_on_error = false;
  for (const std::string& part : SplitParts(text)) {
    ASSIGN_OR_RETURN(const bool taken, ParseSupervision(kFlag, part, device));
    if (taken) continue;
    ASSIGN_OR_RETURN(const bool is_limit, ParseLimit(kFlag, part, "iops", device));
    if (is_limit) continue;
    absl::string_view value = part;
    if (absl::ConsumePrefix(&value, "path=")) {
      disk.path = std::string(value);
    } else if (absl::ConsumePrefix(&value, "format=")) {
      format = std::string(value);
      if (format == "raw" || format == "qcow2") continue;
      return FlagError(kFlag, absl::StrCat("\"", part, "\" is not valid; give raw or qcow2"));
    } else if (absl::ConsumePrefix(&value, "backing=")) {
      disk.backing.emplace_back(value);
    } else if (absl::ConsumePrefix(&value, "name=")) {
      name = std::string(value);
    } else if (absl::ConsumePrefix(&value, "slot=")) {
      RETURN_IF_ERROR(ParseSlot(kFlag, value, device));
    } else if (value == "readonly") {
      disk.read_only = true;
    } else if (value == "direct") {
      disk.direct = true;
    } else if (value == "shared") {
      shared = true;
    } else if (value == "on-error=report" || value == "on-error=pause") {
      pause_on_error = value == "on-error=pause";
    } else if (absl::ConsumePrefix(&value, "serial=")) {
      device.add_arg(absl::StrCat("--serial=", value));
    } else if (absl::ConsumePrefix(&value, "discard=")) {
      if (value != "on" && value != "off") {
        return FlagError(kFlag, absl::StrCat("\"", part, "\" is not valid; give on or off"));
      }
      device.add_arg(absl::StrCat("--discard=", value == "on" ? "true" : "false"));
    } else {
      return FlagError(kFlag,
                       absl::StrCat("\"", part, "\" is unknown; give path=FILE, readonly, ",
                                    "direct, shared, discard=, serial=, bps=, iops=, bps-burst=, ",
                                    "iops-burst=, on-error=report|pause, format=raw|qcow2, ",
                                    "backing=FILE, name=NAME, slot=N, ",
                                    "restart=, policy=, heartbeat=, spare"));
    }
  }
  if (disk.path.empty()) return FlagError(kFlag, "path=FILE is missing");
  if (format.empty()) format = absl::EndsWith(disk.path, ".qcow2") ? "qcow2" : "raw";
  device.set_name(name);
  if (format == "qcow2") {
    if (shared || pause_on_error || device.arg_size() != 0) {
      return FlagError(kFlag,
                       "shared, discard=, serial=, on-error= and limits are for format=raw only");
    }
    ServeQcow2(disk, device);
  } else {
    if (!disk.backing.empty()) return FlagError(kFlag, "backing= is for format=qcow2 only");
    device.set_binary("virtio_blk");
    v1::FileResource& file = AddFile(device, "disk", disk.path, disk.read_only);
    file.set_direct(disk.direct);
    file.set_shared(shared);
    if (pause_on_error) file.set_on_error(v1::FileResource::PAUSE);
  }
  AddDevice(line, kFlag) = std::move(device);
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
