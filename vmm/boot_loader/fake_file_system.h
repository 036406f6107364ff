#ifndef BULKHEAD_VMM_BOOT_LOADER_FAKE_FILE_SYSTEM_H_
#define BULKHEAD_VMM_BOOT_LOADER_FAKE_FILE_SYSTEM_H_

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/strip.h"
#include "vmm/boot_loader/file_system.h"
#include "vmm/boot_loader/volume.h"

namespace bulkhead::boot_loader {

// Files in memory, by their paths.
class FakeFileSystem final : public FileSystem {
 public:
  FakeFileSystem(std::string uuid, std::string label, std::map<std::string, std::string> files)
      : uuid_(std::move(uuid)), label_(std::move(label)), files_(std::move(files)) {}

  std::string uuid() const override { return uuid_; }
  std::string label() const override { return label_; }
  absl::StatusOr<uint64_t> FileSize(const std::string& path) const override {
    const auto found = files_.find(path);
    if (found == files_.end()) return absl::NotFoundError("does not exist");
    return found->second.size();
  }
  absl::Status CopyPart(const std::string& path, const FilePart& part, Sink sink) const override {
    const auto found = files_.find(path);
    if (found == files_.end()) return absl::NotFoundError("does not exist");
    const auto* const bytes = reinterpret_cast<const uint8_t*>(found->second.data());
    const absl::Span<const uint8_t> whole(bytes, found->second.size());
    return sink(whole.subspan(std::min<uint64_t>(part.offset, whole.size()), part.bytes));
  }
  absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path) const override {
    std::vector<std::string> names;
    for (const auto& [file, bytes] : files_) {
      absl::string_view name = file;
      if (absl::ConsumePrefix(&name, path) && absl::ConsumePrefix(&name, "/")) {
        names.emplace_back(name);
      }
    }
    if (names.empty()) return absl::NotFoundError("does not exist");
    return names;
  }

 private:
  const std::string uuid_, label_;
  const std::map<std::string, std::string> files_;
};

inline Volume FakeVolume(uint32_t partition, std::string device, std::string uuid,
                         std::string label, std::map<std::string, std::string> files) {
  return {.partition = partition,
          .device = std::move(device),
          .files = std::make_unique<FakeFileSystem>(std::move(uuid), std::move(label),
                                                    std::move(files))};
}

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_FAKE_FILE_SYSTEM_H_
