// Changes a folder at random, as programs do, and knows what must come of it: after each operation
// it compares what the file system says with its own model. At the end it writes the model down,
// one line a file, for the host to compare with what it finds.
//
// usage: filetree FOLDER SEED OPERATIONS
// FOLDER must exist and be empty. Writes the model to FOLDER.model. Prints "filetree: progress" now
// and then, and one line at the end. Exit code 0: all was as it should be; 1: an operation failed
// that should not; 2: something was wrong. The same seed does the same operations.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr size_t kMaxNodes = 300;
constexpr size_t kMaxFileBytes = 64 << 10;
constexpr size_t kMaxOpen = 8;
constexpr int kProgressEvery = 50;

enum class Type : char { kFile = 'f', kFolder = 'd', kLink = 'l' };

// A file may have several names, and live without one while it is open.
struct Node {
  Type type = Type::kFile;
  std::string bytes;  // contents, or a link's target
  unsigned mode = 0;
  unsigned names = 1;
};
using Tree = std::map<std::string, std::shared_ptr<Node>>;  // by path below the folder

struct Open {
  int fd = -1;
  std::shared_ptr<Node> node;
};

[[noreturn]] void End(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  printf("filetree: %s: ", code == 1 ? "FAILED" : "WRONG");
  vprintf(format, arguments);
  printf("\n");
  fflush(stdout);
  va_end(arguments);
  exit(code);
}

uint64_t Hash(const std::string& bytes) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

class Checker {
 public:
  Checker(const std::string& folder, uint64_t seed) : folder_(folder), random_(seed * 2 + 1) {}

  void Run(int operations) {
    for (int i = 0; i < operations; ++i) {
      Step();
      if (i % kProgressEvery == kProgressEvery - 1) {
        printf("filetree: progress\n");
        fflush(stdout);
      }
    }
    for (Open& open : open_) close(open.fd);
    for (const auto& [path, node] : tree_) Compare(path, *node);
    CompareListing("");
    WriteModel();
  }

 private:
  uint64_t Random(uint64_t below) {
    random_ ^= random_ << 13;  // xorshift
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return (random_ * 0x2545f4914f6cdd1d >> 32) % below;
  }
  std::string Full(const std::string& path) const { return folder_ + path; }
  std::string RandomBytes(size_t size) {
    std::string bytes(size, '\0');
    const uint64_t start = Random(1 << 30);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((start + i) * 167 >> 3);
    return bytes;
  }

  // A path of that type; "" if there is none.
  std::string Pick(Type type) {
    std::vector<const std::string*> paths;
    for (const auto& [path, node] : tree_) {
      if (node->type == type) paths.push_back(&path);
    }
    return paths.empty() ? "" : *paths[Random(paths.size())];
  }
  // "" is the folder itself.
  std::string PickFolder() { return Random(3) == 0 ? "" : Pick(Type::kFolder); }
  std::string NewPath() { return PickFolder() + "/n" + std::to_string(next_name_++); }
  bool IsEmpty(const std::string& folder) const {
    const auto next = tree_.upper_bound(folder + "/");
    return next == tree_.end() || next->first.compare(0, folder.size() + 1, folder + "/") != 0;
  }

  void Check(bool good, const char* what, const std::string& path) {
    if (!good) End(1, "%s of %s: %s", what, path.c_str(), strerror(errno));
  }
  void CheckFails(bool failed, int wanted, const char* what, const std::string& path) {
    if (!failed) End(2, "%s of %s has not failed", what, path.c_str());
    if (errno != wanted) Check(false, what, path);
  }

  void Step() {
    const bool is_full = tree_.size() > kMaxNodes;
    switch (Random(20)) {
      case 0:
      case 1:
        return is_full ? Unlink() : Create();
      case 2:
        return is_full ? RemoveFolder() : MakeFolder();
      case 3:
        return is_full ? Unlink() : Symlink();
      case 4:
        return is_full ? Unlink() : Link();
      case 5:
      case 6:
        return Rename();
      case 7:
        return Unlink();
      case 8:
        return RemoveFolder();
      case 9:
      case 10:
      case 11:
        return Write();
      case 12:
        return Truncate();
      case 13:
        return ChangeMode();
      case 14:
        return OpenOne();
      case 15:
        return UseOpen();
      case 16:
        return CompareListing(PickFolder());
      case 17:
        return FailOne();
      default:
        return CompareOne();
    }
  }

  void Create() {
    const std::string path = NewPath();
    auto node = std::make_shared<Node>();
    node->mode = 0600 | (Random(2) ? 0044 : 0);
    node->bytes = RandomBytes(Random(4) == 0 ? Random(kMaxFileBytes) : Random(2000));
    const int fd = open(Full(path).c_str(), O_CREAT | O_EXCL | O_RDWR, node->mode);
    Check(fd >= 0, "creation", path);
    WriteAll(fd, node->bytes, 0, path);
    if (Random(8) == 0) Check(fsync(fd) == 0, "fsync", path);
    close(fd);
    tree_[path] = node;
  }
  void WriteAll(int fd, const std::string& bytes, size_t offset, const std::string& path) {
    const ssize_t size = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    Check(size >= 0, "write", path);
    const auto written = static_cast<size_t>(size);
    if (written == bytes.size()) return;
    // It ends early where there is an error, which the next one returns.
    Check(pwrite(fd, bytes.data() + written, bytes.size() - written,
                 static_cast<off_t>(offset + written)) >= 0,
          "write", path);
    End(2, "short write of %s", path.c_str());
  }
  void MakeFolder() {
    const std::string path = NewPath();
    Check(mkdir(Full(path).c_str(), 0755) == 0, "mkdir", path);
    tree_[path] = std::make_shared<Node>(Node{Type::kFolder, "", 0755, 1});
  }
  void Symlink() {
    const std::string path = NewPath();
    const std::string target = "../" + std::to_string(Random(1000)) + "/target";
    Check(symlink(target.c_str(), Full(path).c_str()) == 0, "symlink", path);
    tree_[path] = std::make_shared<Node>(Node{Type::kLink, target, 0777, 1});
  }
  void Link() {
    const std::string from = Pick(Type::kFile);
    if (from.empty()) return;
    const std::string path = NewPath();
    Check(link(Full(from).c_str(), Full(path).c_str()) == 0, "link", path);
    tree_[path] = tree_[from];
    ++tree_[path]->names;
  }
  void Forget(const std::string& path) {
    --tree_[path]->names;
    tree_.erase(path);
  }
  void Unlink() {
    const std::string path = Pick(Random(3) == 0 ? Type::kLink : Type::kFile);
    if (path.empty()) return;
    Check(unlink(Full(path).c_str()) == 0, "unlink", path);
    Forget(path);
  }
  void RemoveFolder() {
    const std::string path = Pick(Type::kFolder);
    if (path.empty()) return;
    const bool removed = rmdir(Full(path).c_str()) == 0;
    if (!IsEmpty(path)) return CheckFails(!removed, ENOTEMPTY, "rmdir", path);
    Check(removed, "rmdir", path);
    Forget(path);
  }
  void Rename() {
    const std::string from = Pick(static_cast<Type>("ffdl"[Random(4)]));
    if (from.empty()) return;
    std::string to = NewPath();
    const bool is_folder = tree_[from]->type == Type::kFolder;
    if (!is_folder && Random(3) == 0) to = Pick(Type::kFile);  // over another one
    if (to.empty() || to == from) return;
    const bool renamed = rename(Full(from).c_str(), Full(to).c_str()) == 0;
    if (is_folder && to.compare(0, from.size() + 1, from + "/") == 0) {
      return CheckFails(!renamed, EINVAL, "rename into itself", from);
    }
    Check(renamed, "rename", from);
    if (tree_.count(to) != 0) {
      if (tree_[to] == tree_[from]) return;  // two names of one file: nothing happens
      Forget(to);
    }
    Tree moved;
    for (auto it = tree_.begin(); it != tree_.end();) {
      if (it->first == from || it->first.compare(0, from.size() + 1, from + "/") == 0) {
        moved[to + it->first.substr(from.size())] = it->second;
        it = tree_.erase(it);
      } else {
        ++it;
      }
    }
    tree_.merge(moved);
  }
  void Put(Node& node, size_t offset, const std::string& bytes) {
    if (node.bytes.size() < offset + bytes.size()) node.bytes.resize(offset + bytes.size());
    node.bytes.replace(offset, bytes.size(), bytes);
  }
  void Write() {
    const std::string path = Pick(Type::kFile);
    if (path.empty()) return;
    Node& node = *tree_[path];
    const bool appends = Random(2) == 0;
    const std::string bytes = RandomBytes(1 + Random(9000));
    // Beyond the end leaves a hole.
    const size_t offset = appends ? node.bytes.size() : Random(node.bytes.size() + 5000);
    if (offset + bytes.size() > kMaxFileBytes) return;
    const int fd = open(Full(path).c_str(), O_WRONLY | (appends ? O_APPEND : 0));
    Check(fd >= 0, "open", path);
    WriteAll(fd, bytes, offset, path);
    close(fd);
    Put(node, offset, bytes);
  }
  void Truncate() {
    const std::string path = Pick(Type::kFile);
    if (path.empty()) return;
    const size_t size = Random(kMaxFileBytes / 4);
    Check(truncate(Full(path).c_str(), static_cast<off_t>(size)) == 0, "truncate", path);
    tree_[path]->bytes.resize(size);
  }
  void ChangeMode() {
    const std::string path = Pick(Random(2) ? Type::kFile : Type::kFolder);
    if (path.empty()) return;
    const unsigned mode = static_cast<unsigned>(0700 | Random(0100));
    Check(chmod(Full(path).c_str(), mode) == 0, "chmod", path);
    tree_[path]->mode = mode;
  }
  void OpenOne() {
    const std::string path = Pick(Type::kFile);
    if (path.empty()) return;
    if (open_.size() == kMaxOpen) {
      const size_t which = Random(kMaxOpen);
      close(open_[which].fd);
      open_.erase(open_.begin() + static_cast<ptrdiff_t>(which));
    }
    const int fd = open(Full(path).c_str(), O_RDWR);
    Check(fd >= 0, "open", path);
    open_.push_back({fd, tree_[path]});
  }
  // It may have been renamed or removed since.
  void UseOpen() {
    if (open_.empty()) return;
    const Open& open = open_[Random(open_.size())];
    if (Random(2) == 0) {
      const std::string bytes = RandomBytes(1 + Random(3000));
      const size_t offset = Random(kMaxFileBytes - bytes.size());
      WriteAll(open.fd, bytes, offset, "an open file");
      Put(*open.node, offset, bytes);
    }
    CompareContents(open.fd, *open.node, "an open file");
  }
  void FailOne() {
    const std::string path = Pick(Type::kFile);
    if (path.empty()) return;
    const std::string full = Full(path);
    switch (Random(4)) {
      case 0:
        return CheckFails(mkdir(full.c_str(), 0755) != 0, EEXIST, "mkdir over a file", path);
      case 1:
        return CheckFails(rmdir(full.c_str()) != 0, ENOTDIR, "rmdir of a file", path);
      case 2:
        return CheckFails(access((full + "-no").c_str(), F_OK) != 0, ENOENT, "access", path);
      default:
        return CheckFails(open(full.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600) < 0, EEXIST,
                          "exclusive creation", path);
    }
  }

  void CompareOne() {
    const std::string path = Pick(static_cast<Type>("fdl"[Random(3)]));
    if (!path.empty()) Compare(path, *tree_[path]);
  }
  void Compare(const std::string& path, const Node& node) {
    struct stat info = {};
    Check(lstat(Full(path).c_str(), &info) == 0, "lstat", path);
    const unsigned type = node.type == Type::kFile     ? S_IFREG
                          : node.type == Type::kFolder ? S_IFDIR
                                                       : S_IFLNK;
    if ((info.st_mode & S_IFMT) != type || (info.st_mode & 07777) != node.mode) {
      End(2, "mode %o of %s, type %c mode %o", info.st_mode, path.c_str(),
          static_cast<char>(node.type), node.mode);
    }
    if (node.type == Type::kFolder) return CompareListing(path);
    if (node.type == Type::kLink) {
      char target[256];
      const ssize_t size = readlink(Full(path).c_str(), target, sizeof(target));
      Check(size >= 0, "readlink", path);
      if (node.bytes != std::string(target, static_cast<size_t>(size))) {
        End(2, "target of %s", path.c_str());
      }
      return;
    }
    if (info.st_nlink != node.names) {
      End(2, "%s has %u names, not %u", path.c_str(), static_cast<unsigned>(info.st_nlink),
          node.names);
    }
    const int fd = open(Full(path).c_str(), O_RDONLY);
    Check(fd >= 0, "open", path);
    CompareContents(fd, node, path);
    close(fd);
  }
  void CompareContents(int fd, const Node& node, const std::string& path) {
    std::string bytes(kMaxFileBytes + 1, '\0');
    size_t size = 0;
    while (true) {  // it ends early where there is an error, which the next one returns
      const ssize_t part =
          pread(fd, bytes.data() + size, bytes.size() - size, static_cast<off_t>(size));
      Check(part >= 0, "read", path);
      if (part == 0) break;
      size += static_cast<size_t>(part);
    }
    bytes.resize(size);
    if (bytes != node.bytes) {
      End(2, "contents of %s: %zu bytes, not %zu", path.c_str(), bytes.size(), node.bytes.size());
    }
  }
  void CompareListing(const std::string& folder) {
    DIR* const dir = opendir(Full(folder).c_str());
    Check(dir != nullptr, "opendir", folder);
    std::set<std::string> found;
    while (true) {
      errno = 0;
      const dirent* const entry = readdir(dir);
      if (entry == nullptr) {
        Check(errno == 0, "readdir", folder);
        break;
      }
      if (entry->d_name[0] != '.') found.insert(folder + "/" + entry->d_name);
    }
    closedir(dir);
    std::set<std::string> wanted;
    for (const auto& [path, node] : tree_) {
      if (path.rfind('/') == folder.size() && path.compare(0, folder.size(), folder) == 0) {
        wanted.insert(path);
      }
    }
    if (found != wanted) {
      End(2, "listing of '%s': %zu entries, not %zu", folder.c_str(), found.size(), wanted.size());
    }
  }

  void WriteModel() {
    FILE* const file = fopen((folder_ + ".model").c_str(), "w");
    Check(file != nullptr, "creation", folder_ + ".model");
    for (const auto& [path, node] : tree_) {
      fprintf(file, "%s %c %o %u %zu %016llx\n", path.c_str(), static_cast<char>(node->type),
              node->mode, node->names, node->bytes.size(),
              static_cast<unsigned long long>(Hash(node->bytes)));
    }
    Check(fclose(file) == 0, "write", folder_ + ".model");
    printf("filetree: done, %zu files\n", tree_.size());
  }

  const std::string folder_;
  uint64_t random_;
  uint64_t next_name_ = 0;
  Tree tree_;
  std::vector<Open> open_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: filetree FOLDER SEED OPERATIONS\n");
    return 3;
  }
  umask(0);
  Checker(argv[1], strtoull(argv[2], nullptr, 10)).Run(atoi(argv[3]));
  return 0;
}
