#ifndef BULKHEAD_INTEGRATION_DISK_BOOT_DISK_IMAGE_H_
#define BULKHEAD_INTEGRATION_DISK_BOOT_DISK_IMAGE_H_

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/testing/run_command.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {

inline constexpr char kFileSystemUuid[] = "01234567-89ab-cdef-0123-456789abcdef";

// GRUB's configuration as Debian has it, with these command lines: the entries "zero", "one", ...
// of `kernel` and `initrd` ("": none), and which one is the default.
inline std::string GrubConfig(const std::string& kernel, const std::string& initrd,
                              const std::map<std::string, std::string>& command_lines,
                              const std::string& default_entry) {
  std::string text = absl::StrCat(
      "if [ -s $prefix/grubenv ]; then\n  load_env\nfi\nset default=\"", default_entry,
      "\"\nif [ x\"${feature_menuentry_id}\" = xy ]; then\n  menuentry_id_option=\"--id\"\nfi\n");
  for (const auto& [id, command_line] : command_lines) {
    absl::StrAppend(&text, "menuentry 'Entry ", id, "' --class os $menuentry_id_option '", id,
                    "' {\n\tinsmod ext2\n\tsearch --no-floppy --fs-uuid --set=root ",
                    kFileSystemUuid, "\n\tlinux\t", kernel, " ", command_line, "\n");
    if (!initrd.empty()) absl::StrAppend(&text, "\tinitrd\t", initrd, "\n");
    absl::StrAppend(&text, "}\n");
  }
  return text;
}

// Makes a folder with these files: path to the one of the host, or "=" and the text.
inline std::string MakeFolder(const std::string& name,
                              const std::map<std::string, std::string>& files) {
  std::string folder = absl::StrCat(::testing::TempDir(), "/", name, ".files");
  for (const auto& [path, source] : files) {
    const std::filesystem::path target = folder + path;
    std::filesystem::create_directories(target.parent_path());
    if (source[0] == '=') {
      std::ofstream(target) << source.substr(1);
    } else {
      std::filesystem::copy_file(source, target);
    }
  }
  return folder;
}

// An image of tools/make_image with these files, as of MakeFolder.
inline std::string MakeDiskImage(const std::string& name, const std::string& size,
                                 const std::map<std::string, std::string>& files) {
  const std::string folder = MakeFolder(name, files);
  std::string image = absl::StrCat(::testing::TempDir(), "/", name);
  OutputOf(absl::StrCat(DataFile("tools/make_image"), " --from ", folder, " --size ", size,
                        " --uuid ", kFileSystemUuid, " ", image));
  std::filesystem::remove_all(folder);
  return image;
}

// A partition of 8 MiB with an ext4, or one with no file system (no files).
struct Partition {
  int number = 1;
  std::string uuid;
  std::string label;
  std::map<std::string, std::string> files;  // as of MakeFolder
};

// An image with a GPT and these partitions, in this order on the disk.
inline std::string MakePartitionedImage(const std::string& name,
                                        const std::vector<Partition>& partitions) {
  std::string image = absl::StrCat(::testing::TempDir(), "/", name);
  std::string table = "label: gpt\n";
  for (size_t i = 0; i < partitions.size(); ++i) {
    absl::StrAppend(&table, "/dev/vda", partitions[i].number, " : start=", i * 8 + 1,
                    "MiB, size=8MiB\n");
  }
  std::ofstream(image + ".sfdisk") << table;
  OutputOf(absl::StrCat("truncate --size=", partitions.size() * 8 + 2, "M ", image,
                        " && PATH=$PATH:/usr/sbin:/sbin sfdisk --quiet ", image, " < ", image,
                        ".sfdisk"));
  for (size_t i = 0; i < partitions.size(); ++i) {
    const Partition& partition = partitions[i];
    if (partition.files.empty()) continue;
    const std::string folder = MakeFolder(name, partition.files);
    OutputOf(absl::StrCat("PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -U ", partition.uuid,
                          " -L ", partition.label, " -d ", folder, " -E offset=", (i * 8 + 1) << 20,
                          " ", image, " 8192k"));
    std::filesystem::remove_all(folder);
  }
  return image;
}

// Overwrites the partition of `image` by that of `other`, in place: as a guest would.
inline void ReplacePartition(const std::string& image, const std::string& other) {
  OutputOf(absl::StrCat("dd if=", other, " of=", image, " bs=1M skip=1 seek=1 conv=notrunc"));
}

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_DISK_BOOT_DISK_IMAGE_H_
