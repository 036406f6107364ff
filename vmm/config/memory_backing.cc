#include "vmm/config/memory_backing.h"

#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace bulkhead::vmm {
namespace {

constexpr char kShmemEnabled[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
constexpr uint32_t kMaxNumaNode = 1023;

}  // namespace

absl::StatusOr<RamBacking> ReadMemoryBacking(
    const v1::MemoryBacking& config, uint64_t memory_bytes, absl::string_view shmem_enabled,
    absl::FunctionRef<absl::Status(const std::string&, absl::string_view)> error) {
  const std::string field = "memory_backing.hugepages";
  const std::string& pages = config.hugepages();
  RamBacking backing;
  if (pages == "2M") {
    backing.huge_pages = RamBacking::HugePages::k2M;
  } else if (pages == "1G") {
    backing.huge_pages = RamBacking::HugePages::k1G;
  } else if (pages == "thp") {
    backing.huge_pages = RamBacking::HugePages::kTransparent;
    if (shmem_enabled.empty() || shmem_enabled == "never" || shmem_enabled == "deny") {
      return error(field, absl::StrCat("\"thp\": this host's ", kShmemEnabled, " is \"",
                                       shmem_enabled.empty() ? "missing" : shmem_enabled,
                                       "\"; it must be advise, within_size or always"));
    }
  } else if (pages == "none") {
    backing.huge_pages = RamBacking::HugePages::kNone;
  } else if (!pages.empty()) {
    return error(field, absl::StrCat("\"", pages, "\" is unknown; give none, thp, 2M or 1G"));
  }
  if (memory_bytes % backing.page_bytes() != 0) {
    return error(field, absl::StrCat("\"", pages, "\": \"memory\" has ", memory_bytes >> 20,
                                     "M and must be a multiple of ", pages));
  }
  if (config.has_numa_node()) {
    if (config.numa_node() > kMaxNumaNode) {
      return error("memory_backing.numa_node",
                   absl::StrCat(config.numa_node(), " is out of range (0 to ", kMaxNumaNode, ")"));
    }
    const std::string folder = absl::StrCat("/sys/devices/system/node/node", config.numa_node());
    if (access(folder.c_str(), F_OK) != 0) {
      return error("memory_backing.numa_node",
                   absl::StrCat(config.numa_node(), ": this host has no such node (", folder, ")"));
    }
    backing.numa_node = config.numa_node();
  }
  return backing;
}

std::string ShmemEnabled() {
  // "always within_size [advise] never deny force"
  std::ifstream file(kShmemEnabled);
  std::string word;
  while (file >> word) {
    if (word.size() > 2 && word.front() == '[') return word.substr(1, word.size() - 2);
  }
  return "";
}

}  // namespace bulkhead::vmm
