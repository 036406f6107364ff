// A Linux guest that prints as fast as its serial port takes it, as `cat` of a large file on the
// console does: all of it arrives, and the guest's kernel has no reason to complain of a processor
// that did nothing else (soft lockup, RCU stall).

#include <stdint.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"

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
  std::cout << bytes << " bytes in " << seconds << " s" << std::endl;
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
  ASSERT_NO_FATAL_FAILURE(Flood(**guest, 20'000));
  ExpectNoComplaints(**guest);
}

}  // namespace
}  // namespace bulkhead::integration
