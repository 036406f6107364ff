// Measures what this machine's /dev/kvm can do:
//
//   native          runs kernel mode of guests at full speed: Linux guests boot
//   user-mode-only  runs guest user mode natively but interprets kernel mode: bare-metal guest
//                   programs run well, a Linux kernel does not boot
//   none            no usable /dev/kvm
//
// A guest of one page table and one loop is run at privilege level 0 and at level 3, and its
// instructions are counted against the clock. Needs well under a second.

#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/standard_descriptors.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace bulkhead::testbed {
namespace {

// In C++, Debian 12's headers give structures with a flexible array member (kvm_cpuid2,
// kvm_msrs) a wrong size, hence their ioctls a wrong number. None of these is used here.
static_assert(sizeof(kvm_regs) == 144 && sizeof(kvm_sregs) == 312 &&
              sizeof(kvm_userspace_memory_region) == 32);

// An interpreter manages a few million instructions a second, emulated hardware
// (KVM inside the testbed) some hundred million, real hardware thousands.
constexpr double kNativePerSecond = 20e6;
constexpr absl::Duration kLongEnough = absl::Milliseconds(10);
constexpr uint64_t kFirstIterations = 10000;
constexpr int kInstructionsPerIteration = 2;
constexpr int kRuns = 3;
constexpr int kWatchdogMs = 400;  // one KVM_RUN, at interpreter speed, takes 12

// Guest-physical layout, in pages: three levels of page tables, which map the first 2 MiB one
// to one and open to level 3, and the loop.
constexpr uint64_t kPml4 = 0x1000;
constexpr uint64_t kPdpt = 0x2000;
constexpr uint64_t kPageDirectory = 0x3000;
constexpr uint64_t kCode = 0x4000;
constexpr size_t kMemorySize = 0x5000;
constexpr uint64_t kNothingThere = 0x100000;  // mapped for the guest, no memory behind it

constexpr uint8_t kLoop[] = {
    0x48, 0xff, 0xc9,                                // loop: dec rcx
    0x75, 0xfb,                                      //       jnz loop
    0xa2, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00,  //       mov [kNothingThere], al
    0x00,
};

void OnAlarm(int) {}  // its delivery ends KVM_RUN with EINTR

// Repeats, in case the first alarm comes just before KVM_RUN.
void SetWatchdog(int milliseconds) {
  const itimerval timer = {{0, milliseconds * 1000}, {0, milliseconds * 1000}};
  setitimer(ITIMER_REAL, &timer, nullptr);
}

// CPU time of this thread, guest included: other programs on the machine do not count.
absl::Duration CpuTime() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

// A virtual machine whose one CPU runs kLoop. Thread-compatible.
class LoopGuest {
 public:
  static absl::StatusOr<LoopGuest> Create() {
    LoopGuest guest;
    RETURN_IF_ERROR(guest.Init());
    return guest;
  }
  LoopGuest(LoopGuest&& other) noexcept
      : kvm_(std::move(other.kvm_)),
        vm_(std::move(other.vm_)),
        cpu_(std::move(other.cpu_)),
        memory_(std::exchange(other.memory_, MAP_FAILED)),
        run_(std::exchange(other.run_, nullptr)),
        run_size_(other.run_size_) {}
  ~LoopGuest() {
    if (run_ != nullptr) munmap(run_, run_size_);
    if (memory_ != MAP_FAILED) munmap(memory_, kMemorySize);
  }

  // Instructions a second at privilege level 0 or 3, the best of a few runs.
  // Errors: the guest does not run at that level, or takes too long.
  absl::StatusOr<double> Measure(int level) {
    double best = 0;
    uint64_t iterations = kFirstIterations;
    for (int runs = 0; runs < kRuns;) {
      ASSIGN_OR_RETURN(const absl::Duration took, RunLoop(level, iterations));
      if (took < kLongEnough) {
        iterations *= 10;
      } else {
        ++runs;
        best = std::max(best, iterations * kInstructionsPerIteration / absl::ToDoubleSeconds(took));
      }
    }
    return best;
  }

 private:
  LoopGuest() = default;

  absl::Status Init() {
    kvm_.reset(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!kvm_.ok()) return ErrnoToStatus(errno, "/dev/kvm");
    vm_.reset(ioctl(kvm_.get(), KVM_CREATE_VM, 0));
    if (!vm_.ok()) return ErrnoToStatus(errno, "KVM_CREATE_VM");
    memory_ =
        mmap(nullptr, kMemorySize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) return ErrnoToStatus(errno, "mmap");
    FillMemory();
    const kvm_userspace_memory_region region = {0, 0, 0, kMemorySize,
                                                reinterpret_cast<uintptr_t>(memory_)};
    if (ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) {
      return ErrnoToStatus(errno, "KVM_SET_USER_MEMORY_REGION");
    }
    cpu_.reset(ioctl(vm_.get(), KVM_CREATE_VCPU, 0));
    if (!cpu_.ok()) return ErrnoToStatus(errno, "KVM_CREATE_VCPU");
    const int size = ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < static_cast<int>(sizeof(kvm_run))) {
      return ErrnoToStatus(errno, "KVM_GET_VCPU_MMAP_SIZE");
    }
    run_size_ = size;
    void* run = mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, cpu_.get(), 0);
    if (run == MAP_FAILED) return ErrnoToStatus(errno, "mmap of the vCPU");
    run_ = static_cast<kvm_run*>(run);
    return absl::OkStatus();
  }

  void FillMemory() {
    constexpr uint64_t kPresentWritableUser = 7;
    constexpr uint64_t kLargePage = 1 << 7;
    const auto store = [this](uint64_t address, uint64_t value) {
      std::memcpy(static_cast<char*>(memory_) + address, &value, sizeof(value));
    };
    store(kPml4, kPdpt | kPresentWritableUser);
    store(kPdpt, kPageDirectory | kPresentWritableUser);
    store(kPageDirectory, kLargePage | kPresentWritableUser);
    std::memcpy(static_cast<char*>(memory_) + kCode, kLoop, sizeof(kLoop));
  }

  absl::Status SetRegisters(int level, uint64_t iterations) {
    kvm_sregs sregs;
    if (ioctl(cpu_.get(), KVM_GET_SREGS, &sregs) != 0) return ErrnoToStatus(errno, "KVM_GET_SREGS");
    const uint8_t dpl = static_cast<uint8_t>(level);
    const uint16_t rpl = static_cast<uint16_t>(level);
    sregs.cs = {.base = 0,
                .limit = 0xffffffff,
                .selector = static_cast<uint16_t>(8 | rpl),
                .type = 11,
                .present = 1,
                .dpl = dpl,
                .db = 0,
                .s = 1,
                .l = 1,
                .g = 1,
                .avl = 0,
                .unusable = 0,
                .padding = 0};
    sregs.ss = sregs.cs;
    sregs.ss.selector = static_cast<uint16_t>(16 | rpl);
    sregs.ss.type = 3;
    sregs.ss.l = 0;
    sregs.ss.db = 1;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss;
    sregs.cr0 = 0x80050033;  // PG, AM, WP, NE, ET, MP, PE
    sregs.cr3 = kPml4;
    sregs.cr4 = 0x620;   // PAE, OSFXSR, OSXMMEXCPT
    sregs.efer = 0xd00;  // LME, LMA, NXE
    if (ioctl(cpu_.get(), KVM_SET_SREGS, &sregs) != 0) return ErrnoToStatus(errno, "KVM_SET_SREGS");
    kvm_regs regs = {};
    regs.rip = kCode;
    regs.rcx = iterations;
    regs.rflags = 2;
    if (ioctl(cpu_.get(), KVM_SET_REGS, &regs) != 0) return ErrnoToStatus(errno, "KVM_SET_REGS");
    return absl::OkStatus();
  }

  absl::StatusOr<absl::Duration> RunLoop(int level, uint64_t iterations) {
    RETURN_IF_ERROR(SetRegisters(level, iterations));
    SetWatchdog(kWatchdogMs);
    const absl::Duration start = CpuTime();
    const int result = ioctl(cpu_.get(), KVM_RUN, 0);
    const int error = errno;
    const absl::Duration took = CpuTime() - start;
    SetWatchdog(0);
    if (result != 0 && error == EINTR) {
      return absl::DeadlineExceededError(absl::StrCat(iterations, " iterations at level ", level,
                                                      " not done after ", kWatchdogMs, " ms"));
    }
    if (result != 0) return ErrnoToStatus(error, "KVM_RUN");
    if (run_->exit_reason != KVM_EXIT_MMIO || run_->mmio.phys_addr != kNothingThere) {
      return absl::InternalError(
          absl::StrCat("at level ", level, " KVM_RUN exits with reason ", run_->exit_reason));
    }
    return took;
  }

  UniqueFd kvm_;
  UniqueFd vm_;
  UniqueFd cpu_;
  void* memory_ = MAP_FAILED;
  kvm_run* run_ = nullptr;
  size_t run_size_ = 0;
};

struct Result {
  const char* verdict = "none";
  std::string evidence;
  double kernel_per_second = 0;
  double user_per_second = 0;
};

Result Probe() {
  absl::StatusOr<LoopGuest> guest = LoopGuest::Create();
  if (!guest.ok()) return {"none", std::string(guest.status().message()), 0, 0};
  const absl::StatusOr<double> kernel = guest->Measure(0);
  const absl::StatusOr<double> user = guest->Measure(3);
  Result result;
  result.kernel_per_second = kernel.value_or(0);
  result.user_per_second = user.value_or(0);
  if (result.kernel_per_second >= kNativePerSecond) {
    result.verdict = "native";
  } else if (result.user_per_second >= kNativePerSecond) {
    result.verdict = "user-mode-only";
  }
  const auto describe = [](const absl::StatusOr<double>& rate) {
    return rate.ok() ? absl::StrFormat("%.4g million instructions/s", *rate / 1e6)
                     : std::string(rate.status().message());
  };
  result.evidence =
      absl::StrCat("guest kernel mode: ", describe(kernel), "; guest user mode: ", describe(user));
  return result;
}

int Main(int argc, char** argv) {
  const absl::string_view flag = argc == 2 ? argv[1] : "";
  if (argc > 2 || (argc == 2 && flag != "--json" && flag != "--quiet")) {
    std::fprintf(stderr,
                 "usage: kvm_probe [--json | --quiet]\n"
                 "Prints native, user-mode-only or none, and on a second line (not with\n"
                 "--quiet) the measurement behind it. Exit code 0 with every answer.\n");
    return 2;
  }
  struct sigaction action = {};
  action.sa_handler = OnAlarm;
  sigaction(SIGALRM, &action, nullptr);
  const Result result = Probe();
  if (flag == "--json") {
    std::printf(
        "{\"kvm\": \"%s\", \"kernel_mode_instructions_per_second\": %.0f, "
        "\"user_mode_instructions_per_second\": %.0f, \"evidence\": \"%s\"}\n",
        result.verdict, result.kernel_per_second, result.user_per_second, result.evidence.c_str());
  } else if (flag == "--quiet") {
    std::printf("%s\n", result.verdict);
  } else {
    std::printf("%s\n%s\n", result.verdict, result.evidence.c_str());
  }
  return 0;
}

}  // namespace
}  // namespace bulkhead::testbed

int main(int argc, char** argv) {
  bulkhead::OpenStandardDescriptors();
  return bulkhead::testbed::Main(argc, argv);
}
