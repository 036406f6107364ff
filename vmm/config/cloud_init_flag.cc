#include "vmm/config/cloud_init_flag.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vmm/config/device_flags.h"

namespace bulkhead::vmm {
namespace {

constexpr char kFlag[] = "--cloud-init";

}  // namespace

absl::Status ParseCloudInit(absl::string_view text, CommandLine& line) {
  v1::CloudInit& config = *line.config.mutable_cloud_init();
  struct File {
    const char* name;   // as NoCloud calls it
    const char* field;  // of the configuration
    std::string& path;
  };
  const File files[] = {
      {"user-data", "user_data", *config.mutable_user_data()},
      {"meta-data", "meta_data", *config.mutable_meta_data()},
      {"network-config", "network_config", *config.mutable_network_config()},
  };
  for (const std::string& part : SplitParts(text)) {
    bool known = false;
    for (const File& file : files) {
      absl::string_view value = part;
      if (!absl::ConsumePrefix(&value, absl::StrCat(file.name, "="))) continue;
      known = true;
      if (value.empty()) return FlagError(kFlag, absl::StrCat(file.name, "= has no path"));
      file.path = std::string(value);
      line.places[absl::StrCat("cloud_init.", file.field)] = absl::StrCat(kFlag, ": ", file.name);
    }
    if (!known) {
      return FlagError(kFlag, absl::StrCat("\"", part, "\" is unknown; give user-data=FILE, ",
                                           "meta-data=FILE, network-config=FILE"));
    }
  }
  return absl::OkStatus();
}

void AddSshKey(const std::string& path, CommandLine& line) {
  v1::CloudInit& config = *line.config.mutable_cloud_init();
  line.places[absl::StrCat("cloud_init.ssh_key[", config.ssh_key_size(), "]")] = "--ssh-key";
  config.add_ssh_key(path);
}

void SetHostname(const std::string& name, CommandLine& line) {
  line.config.mutable_cloud_init()->set_hostname(name);
  line.places["cloud_init.hostname"] = "--hostname";
}

}  // namespace bulkhead::vmm
