// A Linux guest that prints as fast as its serial port takes it, as `cat` of a large file on the
// console does, and one that is pasted a large text: all of it arrives, and the guest's kernel has
// no reason to complain of a processor that did nothing else (soft lockup, RCU stall).

#include <stdint.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/storm/killer.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(5);

// What the guest's kernel has to say of processors that were busy for too long.
constexpr char kComplaints[] =
    "dmesg | grep -i -E 'lockup|stall|hung|blocked for|too much work' || true";

// "1\n2\n...", as seq prints it on a terminal, of about that many bytes.
std::string Numbers(size_t bytes, uint64_t& last) {
  std::string text;
  for (last = 0; text.size() < bytes;) absl::StrAppend(&text, ++last, "\r\n");
  return text;
}

std::string Difference(absl::string_view got, absl::string_view wanted) {
  if (got == wanted) return "";
  const size_t at = static_cast<size_t>(
      std::mismatch(got.begin(), got.end(), wanted.begin(), wanted.end()).first - got.begin());
  return absl::StrCat(got.size(), " bytes instead of ", wanted.size(), "; at byte ", at, ": \"",
                      got.substr(at, 64), "\"");
}

// Prints `bytes` and compares them.
void Flood(GuestShell& guest, size_t bytes) {
  uint64_t last;
  const std::string numbers = Numbers(bytes, last);
  const absl::Time start = absl::Now();
  ASSERT_TRUE(guest.vm().Type(absl::StrCat("echo FLO''OD; seq ", last, "; echo EN''D\n")).ok());
  absl::StatusOr<std::string> before = guest.vm().WaitForOutput("FLOOD\r\n", kTimeout);
  ASSERT_TRUE(before.ok()) << before.status();
  const absl::StatusOr<std::string> flood = guest.vm().WaitForOutput("END\r\n", kTimeout);
  ASSERT_TRUE(flood.ok()) << flood.status();
  EXPECT_EQ(Difference(*flood, numbers), "");
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  ::testing::Test::RecordProperty("bytes_a_second",
                                  static_cast<int>(static_cast<double>(flood->size()) / seconds));
}

void ExpectNoComplaints(GuestShell& guest) {
  const absl::StatusOr<std::string> complaints = guest.Run(kComplaints, absl::Minutes(2));
  ASSERT_TRUE(complaints.ok()) << complaints.status();
  EXPECT_EQ(*complaints, "");
}

TEST(LinuxFloodTest, WhatAGuestPrintsArrivesAndItsProcessorsDoOtherWorkMeanwhile) {
  absl::StatusOr<std::unique_ptr<GuestShell>> guest =
      GuestShell::Boot({"--cpus=2", "--memory=256M"});
  ASSERT_TRUE(guest.ok()) << guest.status();
  ASSERT_NO_FATAL_FAILURE(Flood(**guest, 150'000));
  ExpectNoComplaints(**guest);
}

TEST(LinuxFloodTest, WhatAGuestPrintsArrivesWhileTheProcessIsKilled) {
  // As often as it likes.
  const std::string path = absl::StrCat(::testing::TempDir(), "/vm.textproto");
  std::ofstream(path)
      << "devices {\n  name: \"console\" binary: \"uart16550\" "
         "restart { min_backoff: \"1ms\" max_backoff: \"1ms\" max_crashes: -1 }\n"
         "  resources { name: \"console\" console { standard_streams: true } }\n}\n";
  absl::StatusOr<std::unique_ptr<GuestShell>> guest =
      GuestShell::Boot({"--config=" + path, "--cpus=2", "--memory=256M"});
  ASSERT_TRUE(guest.ok()) << guest.status();
  Killer killer((*guest)->vm(),
                {.names = {"uart16550"},
                 .min_interval = absl::Seconds(1),
                 .max_interval = absl::Milliseconds(1500)},
                /*limit=*/1'000);
  ASSERT_NO_FATAL_FAILURE(Flood(**guest, 100'000));
  killer.Stop();
  EXPECT_GT(killer.hits(), 5u);
  ExpectNoComplaints(**guest);
}

TEST(LinuxFloodTest, WhatIsPastedArrives) {
  absl::StatusOr<std::unique_ptr<GuestShell>> guest =
      GuestShell::Boot({"--cpus=2", "--memory=256M"});
  ASSERT_TRUE(guest.ok()) << guest.status();
  uint64_t last;
  std::string text = Numbers(40'000, last);
  text.erase(std::remove(text.begin(), text.end(), '\r'), text.end());
  ASSERT_TRUE((*guest)
                  ->vm()
                  .Type("stty -echo; echo PA''STE; head -c " + absl::StrCat(text.size()) +
                        " > /tmp/pasted; stty echo; md5sum < /tmp/pasted; echo EN''D\n")
                  .ok());
  ASSERT_TRUE((*guest)->vm().WaitForOutput("PASTE\r\n", kTimeout).ok());
  ASSERT_TRUE((*guest)->vm().Type(text).ok());
  ASSERT_TRUE((*guest)->vm().WaitForOutput("END\r\n", kTimeout).ok());
  const absl::StatusOr<std::string> pasted =
      (*guest)->Run(absl::StrCat("seq ", last, " | cmp - /tmp/pasted && echo same"));
  ASSERT_TRUE(pasted.ok()) << pasted.status();
  EXPECT_EQ(*pasted, "same");
  ExpectNoComplaints(**guest);
}

}  // namespace
}  // namespace bulkhead::integration
