#ifndef BULKHEAD_VMM_CONFIG_TESTING_CONFIG_FIXTURE_H_
#define BULKHEAD_VMM_CONFIG_TESTING_CONFIG_FIXTURE_H_

#include <stdint.h>
#include <sys/stat.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/testing/files.h"
#include "gtest/gtest.h"
#include "vmm/config/command_line.h"
#include "vmm/config/text_config.h"
#include "vmm/config/validate.h"

namespace bulkhead::vmm {

// A folder with a kernel, a disk and a device binary, and a host of 1 GiB.
class ConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = MakeTempFolder();
    for (const char* name : {"vmlinux", "disk.img", "virtio_blk", "uart16550", "virtio_rng",
                             "boot_loader", "vhost_user"}) {
      std::ofstream(Path(name)) << name << std::string(512, ' ');
      chmod(Path(name).c_str(), 0755);
    }
    host_ = {.memory_bytes = uint64_t{1} << 30, .device_dirs = {dir_}};
  }

  std::string Path(const std::string& name) const { return absl::StrCat(dir_, "/", name); }

  // "$DIR" stands for the folder.
  absl::StatusOr<VmSpec> FromText(const std::string& text) const {
    v1::VmConfig config;
    FieldPlaces places;
    absl::Status parsed = ParseTextConfig(absl::StrReplaceAll(text, {{"$DIR", dir_}}),
                                          "vm.textproto", config, places);
    if (!parsed.ok()) return parsed;
    return ValidateConfig(config, places, host_);
  }

  absl::StatusOr<VmSpec> FromFlags(std::vector<std::string> flags) const {
    flags.insert(flags.begin(), "vmm");
    std::vector<char*> argv;
    for (std::string& flag : flags) {
      flag = absl::StrReplaceAll(flag, {{"$DIR", dir_}});
      argv.push_back(flag.data());
    }
    argv.push_back(nullptr);
    const absl::StatusOr<CommandLine> line =
        ParseCommandLine(static_cast<int>(flags.size()), argv.data());
    if (!line.ok()) return line.status();
    return ValidateConfig(line->config, line->places, host_);
  }

  std::string dir_;
  HostLimits host_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_TESTING_CONFIG_FIXTURE_H_
