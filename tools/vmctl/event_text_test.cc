#include "tools/vmctl/event_text.h"

#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

// What EventText() has after the time, which is that of the epoch.
std::string TextOf(const std::string& event_text, bool color = false) {
  v1::Event event;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(event_text, &event));
  std::string text = EventText(event, absl::UTCTimeZone(), color);
  const std::string time = "1970-01-01 00:00:00.000";
  if (color) return text;
  EXPECT_EQ(text.substr(0, time.size()), time);
  return text.substr(time.size());
}

TEST(EventTextTest, TimesAreLocal) {
  v1::Event event;
  event.mutable_time()->set_seconds(1767268800);
  event.mutable_time()->set_nanos(250999999);
  event.mutable_guest_reset();
  EXPECT_EQ(EventText(event, absl::FixedTimeZone(3600), false),
            "2026-01-01 13:00:00.250  vm         the guest was reset\n");
}

TEST(EventTextTest, EveryKindSaysWhatHappened) {
  EXPECT_EQ(TextOf(R"(vm_state { state: PAUSED reason: "device 'disk0' is unavailable" })"),
            "  vm         PAUSED: device 'disk0' is unavailable\n");
  EXPECT_EQ(TextOf(R"(device_state { device: "disk0" from: RESTARTING to: RUNNING pid: 12
                                     generation: 3 })"),
            "  disk0      RESTARTING -> RUNNING, pid 12, generation 3\n");
  EXPECT_EQ(TextOf(R"(device_ended { device: "disk0" pid: 12 generation: 3 reason: "exit code 0"
                                     expected: true })"),
            "  disk0      process 12 (generation 3) ended as asked: exit code 0\n");
  EXPECT_EQ(
      TextOf(R"(heartbeat_missed { device: "disk0" missed_in_a_row: 2 misses_until_hang: 4 })"),
      "  disk0      missed 2 of 4 heartbeats\n");
  EXPECT_EQ(TextOf(R"(policy { device: "disk0" action: "gives up: 5 crashes in 60s" })"),
            "  disk0      the vmm gives up: 5 crashes in 60s\n");
  EXPECT_EQ(TextOf(R"(policy { action: "pauses" })"), "  vm         the vmm pauses\n");
  EXPECT_EQ(TextOf(R"(guest_reset { reason: "triple fault" })"),
            "  vm         the guest was reset: triple fault\n");
  EXPECT_EQ(TextOf(R"(device_reset { device: "a-long-name" by: "a client" })"),
            "  a-long-name reset by a client\n");
  EXPECT_EQ(TextOf(R"(guest_report { device: "pvpanic" kind: PANICKED action: "the VM ends" })"),
            "  pvpanic    the guest's kernel has crashed: the VM ends\n");
  EXPECT_EQ(TextOf(R"(guest_report { device: "i6300esb" kind: WATCHDOG_EXPIRED })"),
            "  i6300esb   the guest's watchdog has expired\n");
  EXPECT_EQ(TextOf(R"(guest_report { device: "pvpanic" kind: CRASH_LOADED })"),
            "  pvpanic    the guest's kernel has crashed, its crash kernel takes over\n");
  EXPECT_EQ(TextOf(R"(missed { count: 17 })"), "  vm         17 events were missed here\n");
  EXPECT_EQ(TextOf(""),
            "  vm         an event of a kind that this vmctl does not know: it is older than the "
            "vmm\n");
}

TEST(EventTextTest, TheLastLinesOfADeadProcessFollowAndCannotSteerTheTerminal) {
  EXPECT_EQ(TextOf(R"(device_ended { device: "d" pid: 1 reason: "exit code 1"
                                     last_lines: "one\n\033[2Jtwo\n" })"),
            "  d          process 1 (generation 0) ended: exit code 1\n"
            "    d| one\n"
            "    d| \\x1b[2Jtwo\n");
}

TEST(EventTextTest, AColouredLineShowsWhatMatters) {
  EXPECT_EQ(
      TextOf(R"(device_state { device: "d" from: RUNNING to: FAILED })", true),
      "\x1b[2m1970-01-01 00:00:00.000\x1b[0m  d          RUNNING -> \x1b[1;31mFAILED\x1b[0m\n");
}

}  // namespace
}  // namespace bulkhead::vmctl
