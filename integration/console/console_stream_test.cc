// A guest that prints and is typed to, as fast as it goes, through the real vmm and its serial
// port's process; then the same while that process is killed again and again.

#include <stdint.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"
#include "integration/storm/killer.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(3);
// Every process may die, at once and as often as it likes.
constexpr char kRestart[] = "restart { min_backoff: \"1ms\" max_backoff: \"1ms\" max_crashes: -1 }";

// What console_storm prints, and expects to be typed.
std::string Stream(size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) {
    text.push_back(i % 64 == 63 ? '\n' : static_cast<char>('a' + (i * 7 + i / 64) % 26));
  }
  return text;
}

std::string Difference(const std::string& got, const std::string& wanted) {
  const size_t at = static_cast<size_t>(
      std::mismatch(got.begin(), got.end(), wanted.begin(), wanted.end()).first - got.begin());
  if (got.size() == wanted.size() && at == got.size()) return "";
  return absl::StrCat(got.size(), " bytes instead of ", wanted.size(), "; at byte ", at, ": ",
                      got.substr(at, 64));
}

class ConsoleStreamTest : public testing::Test {
 protected:
  // The console's configuration has `more`.
  void Start(size_t bytes, size_t input, absl::string_view more) {
    const std::string path = absl::StrCat(::testing::TempDir(), "/vm.textproto");
    std::ofstream(path) << "on_reset: EXIT\nmemory: \"32M\"\nkernel { path: \""
                        << DataFile("kernel_images/baremetal/guest.elf")
                        << "\" cmdline: \"run=console_storm bytes=" << bytes << " input=" << input
                        << "\" }\ndevices {\n  name: \"console\" binary: \"uart16550\" " << more
                        << "\n  resources { name: \"console\" console { standard_streams: true "
                        << "log { path: \"" << log_ << "\" } } }\n}\n";
    absl::StatusOr<std::unique_ptr<VmProcess>> vm =
        VmProcess::Start({"--config=" + path, "--control=none"});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
  }
  void ExpectAllOf(size_t bytes) {
    const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kTimeout);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->ToString(), "exit code 0") << vm_->log();
    const std::string printed = Stream(bytes) + "\r\nBULKHEAD-PASS\r\n";
    EXPECT_EQ(Difference(vm_->output(), printed), "") << vm_->log();
    EXPECT_EQ(Difference(ReadFile(log_), printed), "") << vm_->log();
  }

  const std::string log_ = MakeTempFolder() + "/console.log";
  std::unique_ptr<VmProcess> vm_;
};

TEST_F(ConsoleStreamTest, AllThatIsPrintedAndTypedArrives) {
  Start(/*bytes=*/30'000, /*input=*/5'000, "");
  ASSERT_TRUE(vm_->Type(Stream(5'000)).ok());
  ExpectAllOf(30'000);
}

TEST_F(ConsoleStreamTest, AllThatIsPrintedAndTypedArrivesWhileItsProcessIsKilled) {
  Start(/*bytes=*/60'000, /*input=*/8'000, kRestart);
  ASSERT_TRUE(vm_->WaitForOutput("\n", kTimeout).ok()) << vm_->log();
  constexpr uint64_t kKills = 30;
  Killer killer(*vm_, {.names = {"uart16550"}, .max_interval = absl::Milliseconds(60)}, kKills);
  const std::string typed = Stream(8'000);
  const absl::Time deadline = absl::Now() + kTimeout;
  // The last is typed once the last kill is done: the guest does not end before.
  for (size_t i = 0; i < typed.size() && absl::Now() < deadline;) {
    const size_t most = killer.hits() < kKills ? typed.size() - 100 : typed.size();
    const std::string part = typed.substr(i, std::min<size_t>(50, most - i));
    ASSERT_TRUE(vm_->Type(part).ok());
    i += part.size();
    // Reads on, so that the guest is not kept waiting.
    const absl::Status ended = vm_->WaitForOutput("BULKHEAD-FAIL", absl::Milliseconds(5)).status();
    ASSERT_TRUE(absl::IsDeadlineExceeded(ended)) << vm_->log() << vm_->output();
  }
  killer.Stop();
  EXPECT_EQ(killer.hits(), kKills);
  ExpectAllOf(60'000);
}

}  // namespace
}  // namespace bulkhead::integration
