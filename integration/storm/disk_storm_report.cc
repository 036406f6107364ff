#include "integration/storm/disk_storm_report.h"

#include <array>
#include <fstream>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace bulkhead::integration {
namespace {

constexpr uint32_t kBlockBytes = 4096;
constexpr uint32_t kBlocks = kDiskStormBytes / kBlockBytes;

// As the guest program computes it.
uint64_t Word(uint64_t block, uint64_t version, uint64_t index) {
  return (version << 32 | block << 12 | index) * 0x9e3779b97f4a7c15 + version;
}

// The version that a block holds, which its first word gives away; wholly, or an error.
absl::StatusOr<uint32_t> VersionOf(const std::array<uint64_t, kBlockBytes / 8>& words,
                                   uint64_t block, uint32_t newest) {
  for (uint32_t version = 0; version <= newest; ++version) {
    if (words[0] != Word(block, version, 0) && !(version == 0 && words[0] == 0)) continue;
    for (uint64_t i = 0; i < words.size(); ++i) {
      const uint64_t wanted = version == 0 ? 0 : Word(block, version, i);
      if (words[i] != wanted) {
        return absl::DataLossError(absl::StrCat("block ", block, " is torn at word ", i));
      }
    }
    return version;
  }
  return absl::DataLossError(absl::StrCat("block ", block, " holds no version that was written"));
}

}  // namespace

absl::StatusOr<uint64_t> SumOfDiskVersions(const std::string& path, uint32_t newest) {
  std::ifstream disk(path, std::ios::binary);
  uint64_t sum = 0;
  for (uint64_t block = 0; block < kBlocks; ++block) {
    std::array<uint64_t, kBlockBytes / 8> words = {};
    disk.read(reinterpret_cast<char*>(words.data()), kBlockBytes);
    if (!disk) return absl::DataLossError("the disk is too short");
    ASSIGN_OR_RETURN(const uint32_t version, VersionOf(words, block, newest));
    sum = sum * 31 + version;
  }
  return sum;
}

std::map<std::string, uint64_t> StormFigures(absl::string_view line) {
  std::map<std::string, uint64_t> figures;
  const std::vector<std::string> words =
      absl::StrSplit(line, absl::ByAnyChar(" =:\r\n"), absl::SkipEmpty());
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    uint64_t value = 0;
    if (absl::SimpleAtoi(words[i + 1], &value)) figures[words[i]] = value;
  }
  return figures;
}

}  // namespace bulkhead::integration
