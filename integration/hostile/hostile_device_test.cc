// A real vmm whose guest uses two devices at once: a disk, whose data it checks, and one whose
// processes lie (hostile_device.cc). Whatever the liar does, the vmm lives, does not grow, says
// what the liar did, and the disk goes on. One VM bears all lies, one after the other, as the
// binaries of `vmctl device restart`.
//
// The argument is how often it does so (once). The table that it prints has what the disk did
// during each lie, compared with what it did just before, beside an honest device; a single round
// says little of that on a busy host.
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

int rounds = 1;

constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr absl::Duration kMeasured = absl::Milliseconds(500);
constexpr int kRequestsPerProgress = 200;
constexpr size_t kMaxGrowthBytes = 8 << 20;
// After so many rounds the vmm's log of events is full, and its memory must not grow any more.
constexpr int kRoundsToFill = 4;
constexpr size_t kNoGrowthBytes = 512 << 10;
constexpr size_t kSpareEntries = 24;  // descriptors and threads, of a restart under way

enum class Outcome {
  kRefused,  // the restart fails, and the device's old process continues
  kLost,     // the vmm ends the process, or notices its end
  kServes,   // it harms nobody, and stays
};
constexpr bool kSlow = true;  // ten seconds: only if there is more than one round

struct Lie {
  const char* name;
  Outcome outcome;
  const char* said;  // a part of what the vmm says, to the client, in its events, or in the log
  bool slow = false;
};

// It sent more than it was asked, or blocked the connection: which of the two is found first
// depends on how fast the host is.
constexpr char kTooMuch[] = " its control connection";
constexpr char kSilent[] = "did not answer its heartbeats";
constexpr char kNoMetrics[] = "device 'liar' does not tell its metrics";
constexpr char kStalled[] = "left an access unanswered";

constexpr Lie kLies[] = {
    {"describe_bar_of_3000_bytes", Outcome::kRefused, "3000"},
    {"describe_bar_of_8_eib", Outcome::kRefused, "BAR"},
    {"describe_bar_7", Outcome::kRefused, "BAR"},
    {"describe_vectors", Outcome::kRefused, "0xffffffff"},
    {"describe_capability", Outcome::kRefused, "capabilit"},
    {"describe_state", Outcome::kRefused, "0xffffffff"},
    {"describe_memory", Outcome::kRefused, "0xffffffffffffffff"},
    {"describe_doorbells", Outcome::kRefused, "doorbell"},
    {"describe_contract", Outcome::kRefused, "contract"},
    {"describe_other_device", Outcome::kRefused, "liar"},
    {"describe_escapes", Outcome::kRefused, "liar"},
    {"describe_garbage", Outcome::kRefused, "invalid answer"},
    {"describe_3_mib", Outcome::kRefused, "liar"},
    {"describe_never", Outcome::kRefused, "no answer came in time", kSlow},
    {"attach_of_another", Outcome::kRefused, "replied for generation"},
    {"attach_refused", Outcome::kRefused, "\\x1b[2Jno"},
    {"attach_closed", Outcome::kRefused, "closed"},
    {"attach_garbage", Outcome::kRefused, "does not parse"},
    {"attach_of_1_mib", Outcome::kRefused, "more than 4096 bytes"},
    {"attach_never", Outcome::kRefused, "no answer came in time", kSlow},
    {"attach_packets", Outcome::kServes, ""},
    {"grpc_pings", Outcome::kLost, kTooMuch},
    {"grpc_settings", Outcome::kLost, kTooMuch},
    {"grpc_continuations", Outcome::kLost, kTooMuch},
    {"grpc_message_of_2_gib", Outcome::kServes, kNoMetrics},
    {"grpc_garbage", Outcome::kServes, kNoMetrics},
    {"grpc_goaway", Outcome::kServes, kNoMetrics},
    {"grpc_reset", Outcome::kServes, kNoMetrics},
    {"grpc_never_reads", Outcome::kServes, kNoMetrics},
    {"grpc_ends", Outcome::kServes, kNoMetrics},
    {"heartbeat_none", Outcome::kLost, kSilent},
    {"heartbeat_garbage", Outcome::kLost, kSilent},
    {"heartbeat_old", Outcome::kLost, kSilent},
    {"heartbeat_ahead", Outcome::kLost, kSilent},
    {"heartbeat_late", Outcome::kLost, kSilent},
    {"metrics_many", Outcome::kServes, ""},
    {"metrics_forged", Outcome::kServes, ""},
    {"channel_head_beyond", Outcome::kLost, "broke the protocol: its head went from"},
    {"channel_head_back", Outcome::kLost, "broke the protocol: its head went from"},
    {"channel_head_max", Outcome::kLost, "to 18446744073709551615, of"},
    {"channel_future_tickets", Outcome::kLost, "broke the protocol"},
    {"channel_unknown_status", Outcome::kLost, "broke the protocol"},
    {"channel_scribbles", Outcome::kLost, "broke the protocol"},
    {"channel_silence", Outcome::kLost, kStalled},
    {"state_scribbles", Outcome::kLost, "exit code 9"},
    {"memory_resized", Outcome::kLost, "exit code 9"},
    {"interrupts_flood", Outcome::kServes, ""},
    {"events_full", Outcome::kServes, ""},
    {"console_flood", Outcome::kServes, ""},
    {"console_positions", Outcome::kServes, "device 'liar' breaks the protocol of its console"},
    {"console_acknowledgement", Outcome::kServes,
     "device 'liar' breaks the protocol of its console"},
    {"console_short_packet", Outcome::kServes, "device 'liar' breaks the protocol of its console"},
    {"console_long_packet", Outcome::kServes, "device 'liar' breaks the protocol of its console"},
    {"log_forged", Outcome::kLost, "exit code 9"},
    {"log_flood", Outcome::kServes, ""},
    {"exits", Outcome::kLost, "exit code 9"},
};

size_t CountEntries(pid_t pid, const char* what) {
  size_t count = 0;
  std::error_code gone;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/", what), gone)) {
    static_cast<void>(entry);
    ++count;
  }
  return count;
}

size_t ResidentBytes(pid_t pid) {
  const std::vector<std::string> figures =
      absl::StrSplit(ReadFile(absl::StrCat("/proc/", pid, "/statm")), ' ');
  // Guest RAM, which the vmm maps as well, is shared memory.
  size_t resident = 0, shared = 0;
  if (figures.size() < 3 || !absl::SimpleAtoi(figures[1], &resident) ||
      !absl::SimpleAtoi(figures[2], &shared)) {
    return 0;
  }
  return (resident - shared) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

class HostileDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string disk = WriteTempFile("disk.img", std::string(1 << 20, '\0'));
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
        {"--name=hostile", "--cpus=2", "--no-reboot", "--memory=64M",
         absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
         absl::StrCat(
             "--cmdline=run=disk_storm until_key=1 blocks=64 poke=1 vendor=4660 device=1638 "
             "progress=",
             kRequestsPerProgress),
         "--console=stdio", "--disk=path=" + disk,
         "--config=" +
             WriteTempFile("vm.textproto",
                           absl::StrCat("binary_dirs: \"/\" devices { name: \"liar\" binary: \"",
                                        HonestBinary(),
                                        "\" heartbeat { interval: \"100ms\" } "
                                        "resources { name: \"console\" console {} } }"))});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    client_ = std::make_unique<VmClient>(ControlSocketOf("hostile"));
    const auto begun = vm_->WaitForOutput("storm begins", kTimeout);
    ASSERT_TRUE(begun.ok()) << begun.status() << "\n" << vm_->log();
  }

  static std::string HonestBinary() { return DataFile("integration/hostile/hostile_device"); }
  // Another name of the program, by which it lies so.
  static std::string BinaryThat(const std::string& lie) {
    std::string link = absl::StrCat(testing::TempDir(), "/", getpid(), "-device.", lie);
    unlink(link.c_str());
    EXPECT_EQ(symlink(HonestBinary().c_str(), link.c_str()), 0);
    return link;
  }

  // How many requests a second the guest does.
  double DiskRate(absl::Duration time) {
    while (vm_->WaitForOutput("progress", absl::Milliseconds(1)).ok()) {
    }
    const absl::Time begin = absl::Now();
    int lines = 0;
    while (absl::Now() < begin + time || lines == 0) {
      const auto line = vm_->WaitForOutput("progress", kTimeout);
      if (!line.ok()) ADD_FAILURE() << "the disk stands still: " << vm_->output();
      if (!line.ok()) return 0;
      ++lines;
    }
    return lines * kRequestsPerProgress / absl::ToDoubleSeconds(absl::Now() - begin);
  }

  // What the vmm has said about the liar since event number `after`.
  std::string SaidSince(uint64_t after) {
    std::string said;
    const absl::StatusOr<std::vector<v1::Event>> events = client_->PastEvents();
    EXPECT_TRUE(events.ok()) << events.status();
    if (!events.ok()) return "";
    for (const v1::Event& event : *events) {
      if (event.sequence() <= after || event.has_snapshot()) continue;
      if (event.device_ended().device() == "liar" && !event.device_ended().expected()) {
        absl::StrAppend(&said, "ended: ", event.device_ended().reason(), "\n");
      }
      if (event.device_state().device() == "liar") {
        absl::StrAppend(&said, v1::Device::State_Name(event.device_state().to()), ": ",
                        event.device_state().reason(), "\n");
      }
    }
    return said;
  }
  uint64_t LastEvent() {
    const absl::StatusOr<std::vector<v1::Event>> events = client_->PastEvents();
    EXPECT_TRUE(events.ok() && !events->empty()) << events.status();
    return events.ok() && !events->empty() ? events->back().sequence() : 0;
  }

  bool WaitForHonestLiar() {
    const absl::Time deadline = absl::Now() + kTimeout;
    absl::Status last;
    while (absl::Now() < deadline) {
      const absl::StatusOr<v1::Device> device = client_->RestartDevice("liar", HonestBinary());
      if (device.ok()) return true;
      last = device.status();
      absl::SleepFor(absl::Milliseconds(50));
    }
    ADD_FAILURE() << last;
    return false;
  }

  void Bear(const Lie& lie) {
    SCOPED_TRACE(lie.name);
    const double honest_rate = DiskRate(kMeasured);
    const uint64_t before = LastEvent();
    const absl::StatusOr<v1::Device> restarted =
        client_->RestartDevice("liar", BinaryThat(lie.name));
    const double rate = DiskRate(kMeasured);
    // The vmm calls a process that serves only for what a client asks.
    const auto have_it_called = [&] {
      if (absl::StartsWith(lie.name, "grpc_")) client_->GetMetrics().IgnoreError();
    };
    if (lie.outcome == Outcome::kRefused) {
      EXPECT_FALSE(restarted.ok());
      EXPECT_THAT(std::string(restarted.status().message()), HasSubstr(lie.said));
      EXPECT_EQ(client_->GetDevice("liar")->state(), v1::Device::RUNNING);
    } else if (lie.outcome == Outcome::kServes) {
      EXPECT_TRUE(restarted.ok()) << restarted.status();
      EXPECT_THAT(SaidSince(before), Not(HasSubstr("because")));
      const absl::Time deadline = absl::Now() + kTimeout;
      absl::Status said;
      do {
        have_it_called();
        said = vm_->WaitForLog(lie.said, absl::Milliseconds(100)).status();
      } while (!said.ok() && absl::Now() < deadline);
      EXPECT_TRUE(said.ok()) << said;
    } else {
      const absl::Time deadline = absl::Now() + kTimeout;
      std::string said;
      while (absl::Now() < deadline) {
        said = absl::StrCat(restarted.status().message(), "\n", SaidSince(before));
        if (absl::StrContains(said, "ended: ") && absl::StrContains(said, lie.said)) break;
        have_it_called();
        absl::SleepFor(absl::Milliseconds(20));
      }
      EXPECT_THAT(said, HasSubstr("ended: "));
      EXPECT_THAT(said, HasSubstr(lie.said));
    }
    EXPECT_EQ(SamplesOfDisk(), samples_of_disk_);
    Sample();
    Rates& rates = rates_[lie.name];
    rates.honest += honest_rate;
    rates.lying += rate;
    std::cout << absl::StrFormat("%-28s disk %6.0f/s, %6.0f/s before  %6d KiB\n", lie.name, rate,
                                 honest_rate, ResidentBytes(vm_->pid()) >> 10)
              << std::flush;
    WaitForHonestLiar();
  }

  // A device must not take metrics away from another one.
  size_t SamplesOfDisk() {
    const absl::StatusOr<v1::VmMetrics> metrics = client_->GetMetrics();
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    size_t samples = 0;
    for (const v1::MetricFamily& family : metrics->families()) {
      for (const v1::Sample& sample : family.samples()) {
        const auto device = sample.labels().find("device");
        if (device != sample.labels().end() && device->second == "disk0") ++samples;
      }
    }
    return samples;
  }

  void Sample() {
    most_bytes_ = std::max(most_bytes_, ResidentBytes(vm_->pid()));
    most_descriptors_ = std::max(most_descriptors_, CountEntries(vm_->pid(), "fd"));
    most_threads_ = std::max(most_threads_, CountEntries(vm_->pid(), "task"));
  }

  std::unique_ptr<VmProcess> vm_;
  std::unique_ptr<VmClient> client_;
  struct Rates {
    double honest = 0;  // sums of requests a second
    double lying = 0;
  };
  std::map<std::string, Rates> rates_;
  size_t samples_of_disk_ = 0;
  size_t most_bytes_ = 0;
  size_t most_descriptors_ = 0;
  size_t most_threads_ = 0;
};

TEST_F(HostileDeviceTest, NoLieHarmsTheVmOrTheDisk) {
  // The first restart brings threads and descriptors that stay.
  ASSERT_TRUE(WaitForHonestLiar());
  DiskRate(absl::Seconds(1));
  samples_of_disk_ = SamplesOfDisk();
  EXPECT_GT(samples_of_disk_, 0);
  Sample();
  const size_t bytes = most_bytes_, descriptors = most_descriptors_, threads = most_threads_;
  size_t bytes_when_full = 0;
  for (int round = 0; round < rounds; ++round) {
    for (const Lie& lie : kLies) {
      if (lie.slow && rounds == 1) continue;
      Bear(lie);
      ASSERT_FALSE(HasFatalFailure());
    }
    std::cout << absl::StrFormat(
        "round %d: %d KiB, at most %d; %d descriptors, %d threads at most\n", round + 1,
        bytes >> 10, most_bytes_ >> 10, most_descriptors_, most_threads_);
    if (round + 1 == kRoundsToFill) bytes_when_full = most_bytes_;
  }
  if (rounds >= kRoundsToFill) {
    EXPECT_LE(most_bytes_, bytes_when_full + kNoGrowthBytes);
  }
  for (const auto& [lie, rates] : rates_) {
    std::cout << absl::StrFormat("%-28s %3.0f%%\n", lie, 100 * rates.lying / rates.honest);
  }
  EXPECT_LE(most_bytes_, bytes + kMaxGrowthBytes);
  EXPECT_LE(most_descriptors_, descriptors + kSpareEntries);
  EXPECT_LE(most_threads_, threads + kSpareEntries);

  ASSERT_TRUE(vm_->Type("q").ok());
  const auto ends = vm_->WaitForOutput("BULKHEAD-PASS", kTimeout);
  EXPECT_TRUE(ends.ok()) << ends.status() << vm_->output() << vm_->log();
  EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "exit code 0") << vm_->log();
  // Nothing of a device's text reaches the terminal as it is, or looks like the vmm's own.
  EXPECT_THAT(vm_->log(), Not(HasSubstr("\x1b")));
  EXPECT_THAT(vm_->log(), Not(HasSubstr("\nvmm: error: forged")));
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1) bulkhead::integration::rounds = atoi(argv[1]);
  return RUN_ALL_TESTS();
}
