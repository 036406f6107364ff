// A device process for tests: a small PCI function that works, or that misbehaves in the way
// that --misbehaviour names.
#include "devices/host/testdata/misbehaving_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/message_socket.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "proto/channel/channel_layout.h"
#include "proto/contract.h"

ABSL_FLAG(std::string, misbehaviour, "",
          "at start: crash_at_start, exit_at_start, print_without_end, never_describe, "
          "garbage_control, lack_threads, lack_descriptors, lack_descriptors_in_attach; in its "
          "description: bad_bar, other_device, other_state_version; at "
          "attach: never_reply, bad_reply, close_attach, refuse, refuse_state, crash_in_attach, "
          "lack_memory_in_attach, lack_threads_in_attach; "
          "once it serves: crash_after_attach, flood_soon (pings on its control connection); when "
          "asked to rest, or reset: never_rests, "
          "hang_in_reset, crash_in_reset; on a read of the trigger register: crash_in_read, "
          "exit_in_read, leave_in_read, claim_shortage_in_read, hang_in_read, corrupt_head, "
          "corrupt_completion, lack_threads_in_read, flood_pings, flood_settings (and serves on); "
          "on a write of it: lose_answers, lose_answers_forge_head, work_long (2 s, and says so), "
          "work_for_ever. Default: "
          "the suffix of the name that this was started by, after the last dot");
ABSL_FLAG(int, msix_vectors, 2, "MSI-X vectors of the function");

namespace bulkhead::devices {
namespace {

bool Misbehaves(const char* how) { return absl::GetFlag(FLAGS_misbehaviour) == how; }

[[noreturn]] void Hang() {
  while (true) pause();
}

[[noreturn]] void Crash() {
  fprintf(stderr, "about to crash\n");
  signal(SIGSEGV, SIG_DFL);  // a sanitizer would exit instead
  *const_cast<volatile int*>(static_cast<int*>(nullptr)) = 0;
  abort();
}

void SetLimit(__rlimit_resource resource, rlim_t value) {
  const rlimit limit = {.rlim_cur = value, .rlim_max = value};
  if (setrlimit(resource, &limit) != 0) abort();
}

// From now on no thread of this process can start another.
void LackThreads() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_clone3, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_clone, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter = {.len = 5, .filter = program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) != 0) {
    abort();
  }
}

// From now on there is room for nothing large.
void LackMemory() {
  unsigned long pages = 0;  // NOLINT(google-runtime-int): %lu
  std::unique_ptr<FILE, int (*)(FILE*)> statm(fopen("/proc/self/statm", "r"), fclose);
  if (statm == nullptr || fscanf(statm.get(), "%lu", &pages) != 1) abort();
  SetLimit(RLIMIT_AS, pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (1 << 20));
}

// What the attach request mapped as the channel's response memory, found as an attacker would.
uint8_t* FindResponseMemory() {
  std::unique_ptr<FILE, int (*)(FILE*)> maps(fopen("/proc/self/maps", "r"), fclose);
  char line[512];
  while (maps != nullptr && fgets(line, sizeof(line), maps.get()) != nullptr) {
    unsigned long start;  // NOLINT(google-runtime-int): %lx
    char access[5];
    if (sscanf(line, "%lx-%*x %4s", &start, access) != 2) continue;
    const std::string text = line;
    if (text.find("memfd:") != std::string::npos && text.find("response") != std::string::npos &&
        access[1] == 'w') {
      return reinterpret_cast<uint8_t*>(start);
    }
  }
  abort();
}

// In the response memory, as proto/channel/channel_layout.h has it.
constexpr size_t kHeadOffset = 0x40;

void ForgeHead() {
  *reinterpret_cast<uint64_t*>(FindResponseMemory() + kHeadOffset) = uint64_t{1} << 40;
}

// From now on the answers of the host go into memory that no other process sees, but for those to
// heartbeats.
void LoseAnswers() {
  uint8_t* const memory = FindResponseMemory();
  const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* const shared = mremap(memory, 0, size, MREMAP_MAYMOVE);  // one mapping more
  if (shared == MAP_FAILED) abort();
  const std::vector<uint8_t> copy(memory, memory + size);
  if (mmap(memory, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
      memory) {
    abort();
  }
  memcpy(memory, copy.data(), size);
  const auto heartbeat = [](void* response) -> std::atomic<uint64_t>& {
    return reinterpret_cast<channel::ResponseHeader*>(response)->heartbeat;
  };
  std::thread([from = &heartbeat(memory), to = &heartbeat(shared)] {
    for (;; usleep(1000)) *to = from->load();
  }).detach();
}

constexpr absl::string_view kPingFrame(
    "\0\0\x08\x06\0\0\0\0\0"
    "12345678",
    17);

// Takes the control connection away from gRPC, which goes on with a socket that nobody else has,
// and sends one HTTP/2 frame over it without end, reading nothing.
void FloodControlConnection(absl::string_view frame) {
  const int connection = dup(kControlSocketFd);
  int unused[2];
  if (connection < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, unused) != 0) abort();
  if (dup2(unused[0], kControlSocketFd) < 0) abort();
  fcntl(connection, F_SETFL, 0);  // blocks while the vmm does not read
  std::string frames;
  while (frames.size() < 32768) frames.append(frame.data(), frame.size());
  std::thread([connection, frames] {
    while (write(connection, frames.data(), frames.size()) > 0) {
    }
  }).detach();
}

class MisbehavingDevice final : public DeviceModel {
 public:
  v1::DeviceInfo Describe() const override {
    v1::DeviceInfo info;
    info.set_model("misbehaving");
    info.set_uses_dma(true);
    v1::PciFunction& pci = *info.mutable_pci();
    pci.set_vendor_id(0x1234);
    pci.set_device_id(0x0001);
    pci.set_class_code(0xff0000);
    pci.set_msix_vectors(static_cast<uint32_t>(absl::GetFlag(FLAGS_msix_vectors)));
    pci.set_has_intx(true);
    if (Misbehaves("other_device")) pci.set_device_id(0x0002);
    info.set_saved_state_bytes(sizeof(State));
    info.set_state_version(Misbehaves("other_state_version") ? 2 : 1);
    v1::Bar& bar = *pci.add_bars();
    bar.set_index(0);
    bar.set_size_bytes(Misbehaves("bad_bar") ? 3000 : 4096);
    v1::Doorbell& doorbell = *info.add_doorbells();
    doorbell.set_region(0);
    doorbell.set_offset(testdata::kDoorbell);
    info.add_required_resources("input");
    return info;
  }

  absl::Status Start(DeviceServices& services) override {
    services_ = &services;
    if (Misbehaves("never_reply")) Hang();
    if (Misbehaves("crash_in_attach")) Crash();
    if (Misbehaves("lack_memory_in_attach")) {
      LackMemory();
      too_much_ = std::make_unique<std::vector<char>>(size_t{1} << 30);
    }
    if (Misbehaves("lack_threads_in_attach")) {
      LackThreads();
      std::thread([] {}).join();
    }
    if (Misbehaves("refuse")) return absl::InvalidArgumentError("the input is not to my taste");
    if (Misbehaves("bad_reply") || Misbehaves("close_attach")) MisuseAttachSocket();
    if (Misbehaves("flood_soon")) {
      std::thread([] {
        usleep(300'000);  // it serves by then
        FloodControlConnection(kPingFrame);
      }).detach();
    }
    absl::StatusOr<UniqueFd> input = services.TakeResource("input");
    if (!input.ok()) return input.status();
    input_ = *std::move(input);
    return absl::OkStatus();
  }

  size_t Save(absl::Span<uint8_t> out) const override {
    memcpy(out.data(), &state_, sizeof(state_));
    return sizeof(state_);
  }
  absl::Status Restore(absl::Span<const uint8_t> state) override {
    if (Misbehaves("refuse_state"))
      return absl::InvalidArgumentError("the state is not to my taste");
    if (state.size() != sizeof(state_))
      return absl::InvalidArgumentError("no state of this device");
    memcpy(&state_, state.data(), sizeof(state_));
    return absl::OkStatus();
  }
  void Reset() override {
    if (Misbehaves("hang_in_reset")) Hang();
    if (Misbehaves("crash_in_reset")) Crash();
    state_ = {};
    services_->StateChanged();
  }
  void SetServing(bool serving) override { serving_ = serving; }
  bool at_rest() const override { return serving_ || !Misbehaves("never_rests"); }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override {
    v1::DeviceMetric& metric = *metrics.add_metrics();
    metric.set_name("sum");
    metric.set_value(static_cast<double>(state_.sum));
    metrics.add_metrics()->set_name("No Metric!");
  }

  uint64_t Read(uint8_t, uint64_t offset, uint8_t) override {
    switch (offset) {
      case testdata::kTrigger:
        Trigger();
        return 0;
      case testdata::kDoorbellCount:
        return doorbells_;
      case testdata::kWriteCount:
        return state_.writes;
      case testdata::kAdd:
        return state_.sum;
      case testdata::kFunctionState:
        return function_state_;
      default:
        return state_.register_value;
    }
  }

  void Write(uint8_t, uint64_t offset, uint8_t, uint64_t value) override {
    ++state_.writes;
    services_->StateChanged();
    if (offset == testdata::kTrigger && Misbehaves("lose_answers")) return LoseAnswers();
    if (offset == testdata::kTrigger && Misbehaves("lose_answers_forge_head")) {
      ForgeHead();
      return LoseAnswers();
    }
    if (offset == testdata::kTrigger && Misbehaves("work_long")) Work(std::chrono::seconds(2));
    if (offset == testdata::kTrigger && Misbehaves("work_for_ever")) Work(std::chrono::hours(1));
    switch (offset) {
      case testdata::kSignalMsix:
        services_->SignalMsix(static_cast<uint32_t>(value));
        return;
      case testdata::kSetIntx:
        services_->SetIntx(value != 0);
        return;
      case testdata::kCopyFromGuest: {
        uint64_t bytes = 0;
        services_->memory().ReadObject(value, bytes);
        state_.register_value = bytes;
        return;
      }
      case testdata::kAdd:
        state_.sum += value;
        return;
      default:
        state_.register_value = value;
    }
  }

  void OnDoorbell(uint32_t) override {
    if (Misbehaves("crash_after_attach")) Crash();
    ++doorbells_;
  }
  void OnFunctionState(const FunctionState& state) override {
    function_state_ = (state.bus_master ? kFunctionStateBusMaster : 0) |
                      (state.msix_enabled ? kFunctionStateMsixEnabled : 0) |
                      (state.intx_disabled ? kFunctionStateIntxDisabled : 0);
  }

 private:
  // What outlives the process.
  struct State {
    uint64_t register_value = 0;
    uint64_t writes = 0;
    uint64_t sum = 0;
  };

  [[noreturn]] static void MisuseAttachSocket() {
    // The host has the socket under its inherited number.
    if (Misbehaves("bad_reply")) {
      SendSocketMessage(kAttachSocketFd, "\xff\xff\xff", {}).IgnoreError();
    } else {
      close(kAttachSocketFd);
    }
    Hang();
  }

  void Work(std::chrono::seconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      usleep(10'000);
      services_->KeepAlive();
    }
  }

  static void Trigger() {
    if (Misbehaves("crash_in_read")) Crash();
    if (Misbehaves("exit_in_read")) syscall(SYS_exit_group, 7);  // no destructor, no sanitizer
    if (Misbehaves("leave_in_read")) syscall(SYS_exit_group, 0);
    if (Misbehaves("claim_shortage_in_read")) syscall(SYS_exit_group, kDeviceExitShortage);
    if (Misbehaves("lack_threads_in_read")) LackThreads();
    if (Misbehaves("hang_in_read")) Hang();
    if (Misbehaves("flood_pings")) FloodControlConnection(kPingFrame);
    if (Misbehaves("flood_settings")) {
      FloodControlConnection(absl::string_view("\0\0\0\x04\0\0\0\0\0", 9));
    }
    if (Misbehaves("corrupt_head")) {
      ForgeHead();
      Hang();
    }
    if (Misbehaves("corrupt_completion")) {
      // A ticket that was not given out yet.
      *reinterpret_cast<uint64_t*>(FindResponseMemory() + 0x100) = uint64_t{1} << 40;
      Hang();
    }
  }

  DeviceServices* services_ = nullptr;
  UniqueFd input_;
  std::unique_ptr<std::vector<char>> too_much_;
  State state_;
  bool serving_ = true;
  uint64_t doorbells_ = 0;
  uint64_t function_state_ = 0;
};

absl::StatusOr<std::unique_ptr<DeviceModel>> Create() {
  if (Misbehaves("crash_at_start")) {
    fprintf(stderr, "line one\nline two\n");
    abort();
  }
  if (Misbehaves("exit_at_start")) return absl::InvalidArgumentError("--flag=x makes no device");
  if (Misbehaves("never_describe")) Hang();
  if (Misbehaves("lack_threads")) LackThreads();
  // 5 are open: the first leaves none for gRPC, the second too few for what an attachment brings.
  if (Misbehaves("lack_descriptors")) SetLimit(RLIMIT_NOFILE, 5);
  if (Misbehaves("lack_descriptors_in_attach")) SetLimit(RLIMIT_NOFILE, 24);
  if (Misbehaves("garbage_control")) {
    const std::string garbage(100, '\xa5');
    if (write(kControlSocketFd, garbage.data(), garbage.size()) < 0) abort();
    Hang();
  }
  if (Misbehaves("print_without_end")) {
    while (true) printf("again\n");
  }
  return std::make_unique<MisbehavingDevice>();
}

}  // namespace
}  // namespace bulkhead::devices

int main(int argc, char** argv) {
  // Tests that need several binaries for one device, whose flags are always the same, link to this.
  const std::string name = argv[0];
  if (const size_t dot = name.rfind('.');
      dot != std::string::npos && name.find('/', dot) == name.npos) {
    absl::SetFlag(&FLAGS_misbehaviour, name.substr(dot + 1));
  }
  return bulkhead::devices::RunDevice(argc, argv,
                                      {.name = "misbehaving",
                                       .help = "a device for tests. Needs the resource 'input'.",
                                       .create = bulkhead::devices::Create});
}
