#include "vmm/boot_loader/ext_file_system.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "vmm/boot_loader/libext2fs.h"

namespace bulkhead::boot_loader {
namespace {

constexpr size_t kMaxNames = 1000;
constexpr size_t kPieceBytes = 1 << 20;

absl::Status Damaged(absl::string_view what, errcode_t error) {
  if (error == EXT2_ET_FILE_NOT_FOUND || error == EXT2_ET_NO_DIRECTORY) {
    return absl::NotFoundError("does not exist");
  }
  return absl::DataLossError(absl::StrCat("cannot be read: ", what, ": error ", error));
}

// ---- A disk as libext2fs's I/O channel

// It opens a channel by name only: this is the disk of the call of ext2fs_open2() that runs.
const Disk* disk_to_open = nullptr;

struct ChannelDeleter {
  void operator()(io_channel channel) const {
    delete[] channel->name;
    delete channel;
  }
};

errcode_t ReadBlocks(io_channel channel, unsigned long long block, int count,  // NOLINT: theirs
                     void* data) {
  const auto* disk = static_cast<const Disk*>(channel->private_data);
  const uint64_t block_bytes = static_cast<uint64_t>(channel->block_size);
  // A negative count is one of bytes.
  const uint64_t size = count < 0 ? static_cast<uint64_t>(-static_cast<int64_t>(count))
                                  : static_cast<uint64_t>(count) * block_bytes;
  if (block > disk->size_bytes() / block_bytes) return EXT2_ET_SHORT_READ;
  const bool read =
      disk->Read(block * block_bytes, absl::MakeSpan(static_cast<uint8_t*>(data), size));
  return read ? 0 : EXT2_ET_SHORT_READ;
}

errcode_t Refuse(io_channel, unsigned long long, int, const void*) {  // NOLINT: theirs
  return EXT2_ET_RO_FILSYS;
}

errcode_t OpenChannel(const char* name, int flags, io_channel* out);

struct_io_manager MakeManager() {
  struct_io_manager manager = {};
  manager.magic = EXT2_ET_MAGIC_IO_MANAGER;
  manager.name = "disk";
  manager.open = OpenChannel;
  manager.close = [](io_channel channel) -> errcode_t {
    if (--channel->refcount <= 0) ChannelDeleter()(channel);
    return 0;
  };
  manager.set_blksize = [](io_channel channel, int block_size) -> errcode_t {
    if (block_size <= 0) return EXT2_ET_INVALID_ARGUMENT;
    channel->block_size = block_size;
    return 0;
  };
  manager.read_blk = [](io_channel channel, unsigned long block, int count,  // NOLINT: theirs
                        void* data) { return ReadBlocks(channel, block, count, data); };
  manager.write_blk = [](io_channel channel, unsigned long block, int count,  // NOLINT: theirs
                         const void* data) { return Refuse(channel, block, count, data); };
  manager.flush = [](io_channel) -> errcode_t { return 0; };
  manager.read_blk64 = ReadBlocks;
  manager.write_blk64 = Refuse;
  return manager;
}

io_manager Manager() {
  static struct_io_manager manager = MakeManager();
  return &manager;
}

errcode_t OpenChannel(const char* name, int /*flags*/, io_channel* out) {
  const size_t size = strlen(name) + 1;
  auto* channel = new struct_io_channel();
  channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  channel->manager = Manager();
  channel->name = new char[size];
  memcpy(channel->name, name, size);
  channel->block_size = 1024;
  channel->refcount = 1;
  channel->private_data = const_cast<Disk*>(disk_to_open);
  *out = channel;
  return 0;
}

// ---- The file system

class ExtFileSystem final : public FileSystem {
 public:
  explicit ExtFileSystem(ext2_filsys fs) : fs_(fs) {}
  ~ExtFileSystem() override { ext2fs_free(fs_); }
  ExtFileSystem(const ExtFileSystem&) = delete;
  ExtFileSystem& operator=(const ExtFileSystem&) = delete;

  std::string uuid() const override {
    std::string text;
    for (int i = 0; i < 16; ++i) {
      char byte[4];
      snprintf(byte, sizeof(byte), "%02x", fs_->super->s_uuid[i]);
      absl::StrAppend(&text, i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", byte);
    }
    return text;
  }
  std::string label() const override {
    const auto* name = reinterpret_cast<const char*>(fs_->super->s_volume_name);
    return std::string(name, strnlen(name, sizeof(fs_->super->s_volume_name)));
  }

  absl::StatusOr<uint64_t> FileSize(const std::string& path) const override {
    ext2_ino_t number;
    ext2_inode inode;
    RETURN_IF_ERROR(Find(path, number, inode));
    if (!LINUX_S_ISREG(inode.i_mode)) return absl::NotFoundError("is not a regular file");
    return EXT2_I_SIZE(&inode);
  }

  absl::Status CopyPart(const std::string& path, const FilePart& part, Sink sink) const override;
  absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path) const override;

 private:
  absl::Status Find(const std::string& path, ext2_ino_t& number, ext2_inode& inode) const {
    if (const errcode_t error =
            ext2fs_namei_follow(fs_, EXT2_ROOT_INO, EXT2_ROOT_INO, path.c_str(), &number)) {
      return Damaged("its folder", error);
    }
    if (const errcode_t error = ext2fs_read_inode(fs_, number, &inode)) {
      return Damaged("its inode", error);
    }
    return absl::OkStatus();
  }

  const ext2_filsys fs_;
};

absl::Status ExtFileSystem::CopyPart(const std::string& path, const FilePart& part,
                                     Sink sink) const {
  ext2_ino_t number;
  ext2_inode inode;
  RETURN_IF_ERROR(Find(path, number, inode));
  if (!LINUX_S_ISREG(inode.i_mode)) return absl::NotFoundError("is not a regular file");
  ext2_file_t file;
  if (const errcode_t error = ext2fs_file_open(fs_, number, 0, &file)) {
    return Damaged("its inode", error);
  }
  absl::Status status;
  if (const errcode_t error = ext2fs_file_llseek(file, part.offset, EXT2_SEEK_SET, nullptr)) {
    status = Damaged("its contents", error);
  }
  std::vector<uint8_t> piece(kPieceBytes);
  for (uint64_t left = part.bytes; status.ok() && left > 0;) {
    unsigned int count = 0;
    const auto wanted = static_cast<unsigned>(std::min<uint64_t>(left, kPieceBytes));
    if (const errcode_t error = ext2fs_file_read(file, piece.data(), wanted, &count)) {
      status = Damaged("its contents", error);
    } else if (count == 0) {
      break;
    } else {
      status = sink(absl::MakeConstSpan(piece.data(), count));
      left -= count;
    }
  }
  ext2fs_file_close(file);
  return status;
}

absl::StatusOr<std::vector<std::string>> ExtFileSystem::ListFolder(const std::string& path) const {
  ext2_ino_t number;
  ext2_inode inode;
  RETURN_IF_ERROR(Find(path, number, inode));
  std::vector<std::string> names;
  const auto add = [](ext2_dir_entry* entry, int, int, char*, void* out) -> int {
    auto& list = *static_cast<std::vector<std::string>*>(out);
    list.emplace_back(entry->name, static_cast<size_t>(ext2fs_dirent_name_len(entry)));
    return list.size() < kMaxNames ? 0 : DIRENT_ABORT;
  };
  if (const errcode_t error = ext2fs_dir_iterate(fs_, number, 0, nullptr, add, &names)) {
    return Damaged("the folder", error);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const FileSystem>> OpenExtFileSystem(const Disk& disk) {
  ext2_filsys fs = nullptr;
  disk_to_open = &disk;
  const errcode_t error = ext2fs_open2("disk", nullptr, EXT2_FLAG_64BITS, 0, 0, Manager(), &fs);
  disk_to_open = nullptr;
  if (error == EXT2_ET_BAD_MAGIC || error == EXT2_ET_SHORT_READ) {
    return absl::NotFoundError("no ext file system");
  }
  if (error == EXT2_ET_UNSUPP_FEATURE) {
    return absl::DataLossError("an ext4 file system with features that are not known");
  }
  if (error != 0) {
    return absl::DataLossError(absl::StrCat("a damaged ext file system: error ", error));
  }
  return std::make_unique<const ExtFileSystem>(fs);
}

}  // namespace bulkhead::boot_loader
