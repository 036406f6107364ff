// A Linux guest writes a long text on its console while the UART's process is killed again and
// again: each byte arrives once and in order, and no watchdog of the guest's kernel speaks.
//
// usage: console_flood_test [BYTES KILLS]    (20000 5, if not given)

#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kSlowly = absl::Minutes(10);

// The text: numbers of eight digits, each with "\r\n" on the wire.
constexpr int kFirstLine = 10'000'000;
constexpr int kBytesPerLine = 10;

int bytes = 20'000;
int kills = 5;

TEST(ConsoleFloodTest, EachByteArrivesOnceAndNoWatchdogSpeaks) {
  std::ofstream(TempPath("vm.textproto"))
      << "devices { name: \"console\" binary: \"uart16550\"\n"
      << "  restart { max_crashes: -1 min_backoff: \"0\" }\n"
      << "  resources { name: \"console\" console { standard_streams: true } } }\n";
  absl::StatusOr<std::unique_ptr<GuestShell>> booted =
      GuestShell::Boot({"--config=" + TempPath("vm.textproto"), "--memory=256M", "--cpus=2"});
  ASSERT_TRUE(booted.ok()) << booted.status();
  GuestShell& guest = **booted;
  VmProcess& vm = guest.vm();
  // The kernel's messages stay in its log: they are looked at afterwards.
  ASSERT_TRUE(guest.Run("dmesg -n 1").ok());

  const int lines = bytes / kBytesPerLine;
  const absl::Time start = absl::Now();
  ASSERT_TRUE(vm.Type(absl::StrCat("echo begin''ning; seq ", kFirstLine, " ",
                                   kFirstLine + lines - 1, "; echo at the e''nd\n"))
                  .ok());
  absl::StatusOr<std::string> part = vm.WaitForOutput("beginning\r\n", kSlowly);
  ASSERT_TRUE(part.ok()) << part.status();
  // One kill after each of so many parts of the text.
  std::string text;
  int killed = 0;
  for (int kill_index = 1; kill_index <= kills; ++kill_index) {
    const std::string line =
        absl::StrCat(kFirstLine + static_cast<int64_t>(lines) * kill_index / (kills + 1), "\r\n");
    part = vm.WaitForOutput(line, kSlowly);
    ASSERT_TRUE(part.ok()) << "after " << killed << " kills: " << part.status();
    absl::StrAppend(&text, *part, line);
    if (kill(vm.PidOf("uart16550"), SIGKILL) == 0) ++killed;
    if (kill_index % 10 == 0) {
      std::printf("%zu bytes and %d kills after %s\n", text.size(), killed,
                  absl::FormatDuration(absl::Now() - start).c_str());
      std::fflush(stdout);
    }
  }
  part = vm.WaitForOutput("at the end\r\n", kSlowly);
  ASSERT_TRUE(part.ok()) << part.status();
  absl::StrAppend(&text, *part);
  const absl::Duration took = absl::Now() - start;
  std::printf("%d bytes in %s, %.0f bytes a second, %d kills\n", bytes,
              absl::FormatDuration(took).c_str(), bytes / absl::ToDoubleSeconds(took), killed);
  EXPECT_GE(killed, kills * 9 / 10) << "the process was away when it was to be killed";

  std::string expected;
  for (int line = 0; line < lines; ++line) absl::StrAppend(&expected, kFirstLine + line, "\r\n");
  const size_t differs =
      std::mismatch(text.begin(), text.end(), expected.begin(), expected.end()).first -
      text.begin();
  EXPECT_TRUE(text == expected) << text.size() << " bytes instead of " << expected.size()
                                << "; the first wrong one is number " << differs << ": "
                                << text.substr(differs, 200);
  EXPECT_EQ(guest.KernelErrors().value_or("unknown"), "");
  EXPECT_EQ(guest.Run("dmesg | grep -wE 'lockup|stalls?|Call Trace|too much work' || true")
                .value_or("unknown"),
            "");
  const absl::StatusOr<ExitInfo> exit = guest.Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  using namespace bulkhead::integration;
  if (argc != 1 && (argc != 3 || !absl::SimpleAtoi(argv[1], &bytes) ||
                    !absl::SimpleAtoi(argv[2], &kills) || bytes < 1000 || kills < 0)) {
    std::fprintf(stderr, "usage: console_flood_test [BYTES KILLS]\n");
    return 2;
  }
  return RUN_ALL_TESTS();
}
