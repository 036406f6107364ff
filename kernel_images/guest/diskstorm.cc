// Keeps a block device busy and checks every byte, for a test that kills the device's process
// meanwhile: several processes, each with blocks of its own, write a pattern that names block and
// version past the page cache, read it back, and flush. Runs until SIGTERM, then reads everything
// once more.
//
// usage: diskstorm DEVICE PROCESSES BLOCKS_EACH
// Prints "diskstorm: running", and at the end one line of figures; exit code 0 if no request
// failed and no byte was wrong.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vector>

namespace {

constexpr size_t kBlockBytes = 4096;
constexpr size_t kWords = kBlockBytes / sizeof(uint64_t);

// Shared with the children: one a process.
struct Figures {
  uint64_t reads, writes, flushes, failed, wrong_bytes, longest_us;
};

volatile sig_atomic_t stopping = 0;

uint64_t NowMicroseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1000000 + uint64_t(now.tv_nsec) / 1000;
}

// Each word of a block names block, version and its place.
uint64_t Word(uint64_t block, uint64_t version, uint64_t index) {
  return (version << 32 | block << 12 | index) * 0x9e3779b97f4a7c15 + version;
}

class Worker {
 public:
  Worker(int fd, uint64_t first_block, uint64_t blocks, uint64_t seed, Figures& figures)
      : fd_(fd), first_(first_block), versions_(blocks), random_(seed), figures_(figures) {
    buffer_ = static_cast<uint64_t*>(aligned_alloc(kBlockBytes, kBlockBytes));
  }

  void Run() {
    while (!stopping) {
      const uint64_t random = Random();
      const uint64_t block = (random >> 16) % versions_.size();
      if (random % 64 == 0) {
        Flush();
      } else if (versions_[block] != 0 && random % 3 == 0) {
        Read(block);
      } else {
        Write(block);
      }
    }
    Flush();
    for (uint64_t block = 0; block < versions_.size(); ++block) {
      if (versions_[block] != 0) Read(block);
    }
  }

 private:
  uint64_t Random() {  // xorshift64*
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return random_ * 0x2545f4914f6cdd1d;
  }

  void Note(const char* what, uint64_t begin, bool good) {
    const uint64_t took = NowMicroseconds() - begin;
    if (took > figures_.longest_us) figures_.longest_us = took;
    if (good) return;
    ++figures_.failed;
    fprintf(stderr, "diskstorm: %s: %s\n", what, strerror(errno));
  }

  void Write(uint64_t block) {
    const uint64_t version = ++versions_[block];
    for (uint64_t i = 0; i < kWords; ++i) buffer_[i] = Word(first_ + block, version, i);
    const uint64_t begin = NowMicroseconds();
    Note("write", begin, pwrite(fd_, buffer_, kBlockBytes, Offset(block)) == kBlockBytes);
    ++figures_.writes;
  }

  void Read(uint64_t block) {
    memset(buffer_, 0xee, kBlockBytes);
    const uint64_t begin = NowMicroseconds();
    Note("read", begin, pread(fd_, buffer_, kBlockBytes, Offset(block)) == kBlockBytes);
    ++figures_.reads;
    for (uint64_t i = 0; i < kWords; ++i) {
      if (buffer_[i] == Word(first_ + block, versions_[block], i)) continue;
      if (figures_.wrong_bytes == 0) {
        fprintf(stderr, "diskstorm: block %lu, word %lu: %lx instead of %lx\n",
                (unsigned long)(first_ + block), (unsigned long)i, (unsigned long)buffer_[i],
                (unsigned long)Word(first_ + block, versions_[block], i));
      }
      figures_.wrong_bytes += sizeof(uint64_t);
    }
  }

  void Flush() {
    const uint64_t begin = NowMicroseconds();
    Note("flush", begin, fdatasync(fd_) == 0);
    ++figures_.flushes;
  }

  off_t Offset(uint64_t block) const { return off_t((first_ + block) * kBlockBytes); }

  const int fd_;
  const uint64_t first_;
  std::vector<uint64_t> versions_;  // as last written; 0: never
  uint64_t random_;
  Figures& figures_;
  uint64_t* buffer_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: diskstorm DEVICE PROCESSES BLOCKS_EACH\n");
    return 2;
  }
  const uint64_t processes = strtoull(argv[2], nullptr, 10);
  const uint64_t blocks = strtoull(argv[3], nullptr, 10);
  if (processes < 1 || processes > 64 || blocks < 1 || blocks > 1 << 20) return 2;
  struct sigaction action = {};
  action.sa_handler = [](int) { stopping = 1; };
  sigaction(SIGTERM, &action, nullptr);
  Figures* const figures =
      static_cast<Figures*>(mmap(nullptr, processes * sizeof(Figures), PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::vector<pid_t> children;
  for (uint64_t i = 0; i < processes; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      const int fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
      if (fd < 0) {
        perror(argv[1]);
        _exit(1);
      }
      Worker(fd, i * blocks, blocks, i + 1, figures[i]).Run();
      _exit(0);
    }
    children.push_back(child);
  }
  printf("diskstorm: running\n");
  fflush(stdout);
  bool good = true;
  size_t ended = 0;
  bool told = false;
  while (ended < children.size()) {
    int status = 0;
    const pid_t child = wait(&status);
    if (child > 0) {
      ++ended;
      good = good && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    if (stopping && !told) {
      told = true;
      for (const pid_t other : children) kill(other, SIGTERM);
    }
  }
  Figures sum = {};
  for (uint64_t i = 0; i < processes; ++i) {
    sum.reads += figures[i].reads;
    sum.writes += figures[i].writes;
    sum.flushes += figures[i].flushes;
    sum.failed += figures[i].failed;
    sum.wrong_bytes += figures[i].wrong_bytes;
    if (figures[i].longest_us > sum.longest_us) sum.longest_us = figures[i].longest_us;
  }
  printf("diskstorm: reads=%lu writes=%lu flushes=%lu failed=%lu wrong_bytes=%lu longest_us=%lu\n",
         (unsigned long)sum.reads, (unsigned long)sum.writes, (unsigned long)sum.flushes,
         (unsigned long)sum.failed, (unsigned long)sum.wrong_bytes, (unsigned long)sum.longest_us);
  return good && sum.failed == 0 && sum.wrong_bytes == 0 && sum.writes > 0 ? 0 : 1;
}
