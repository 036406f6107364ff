// A UART whose process dies: at every step, again and again, with every kind of reader. Both
// streams must come through complete, in order and once, and no interrupt may be lost.

#include <stdint.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>

#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/testing/streams.h"
#include "devices/uart16550/testing/fake_console.h"
#include "devices/uart16550/testing/killable_uart.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::uart16550 {
namespace {

struct Conditions {
  size_t output_bytes = 100;
  size_t input_bytes = 45;
  bool small_socket = false;
  int turns_between_reads = 1;  // of the console
};

struct Result {
  bool complete = false;
  int steps = 0;
  int processes = 0;
};

// A guest sends and receives until all has come through.
Result Exchange(const Conditions& conditions, const std::function<bool(int)>& dies_at) {
  FakeConsole console;
  KillableUart uart([&] { return console.Connect(conditions.small_socket); }, dies_at);
  const std::string output = Letters(conditions.output_bytes, 'a');
  const std::string input = Letters(conditions.input_bytes, 'A');
  InterruptDrivenGuest guest(uart, output);
  Result result;
  const absl::Time deadline = SteadyNow() + absl::Seconds(30);
  for (int turn = 0; !result.complete && SteadyNow() < deadline; ++turn) {
    guest.Work();
    const size_t left = input.size() - console.typed().size();
    if (turn % 3 == 0)
      console.Type(input.substr(console.typed().size(), std::min<size_t>(left, 5)));
    if (turn % conditions.turns_between_reads == 0) {
      console.Receive();
      console.Send(static_cast<size_t>(1 + turn % 40));
    }
    uart.RunWatches();
    result.complete = console.output() == output && guest.received() == input;
  }
  EXPECT_EQ(console.output(), output);
  EXPECT_EQ(guest.received(), input);
  result.steps = uart.steps();
  result.processes = uart.processes();
  return result;
}

class UartRecoveryTest : public ::testing::TestWithParam<Conditions> {};

TEST_P(UartRecoveryTest, KilledAtAnyStepItLosesAndRepeatsNothing) {
  const Result undisturbed = Exchange(GetParam(), [](int) { return false; });
  ASSERT_TRUE(undisturbed.complete);
  ASSERT_GT(undisturbed.steps, 100);
  int kills = 0;
  for (int step = 1; step <= undisturbed.steps; ++step) {
    const Result result = Exchange(GetParam(), [=](int at) { return at == step; });
    ASSERT_TRUE(result.complete) << "killed at step " << step;
    kills += result.processes - 1;
  }
  // How long the line is quiet differs from run to run, and with it the last steps.
  EXPECT_LE(kills, undisturbed.steps);
  EXPECT_GE(kills, undisturbed.steps * 3 / 4);
}

TEST_P(UartRecoveryTest, KilledAgainAndAgainItLosesAndRepeatsNothing) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    const uint32_t steps_between = 4 + seed % 30;
    const Result result = Exchange(GetParam(), [&](int) { return random() % steps_between == 0; });
    ASSERT_TRUE(result.complete) << "seed " << seed;
    ASSERT_GT(result.processes, 10);
  }
}

INSTANTIATE_TEST_SUITE_P(Conditions, UartRecoveryTest,
                         testing::Values(Conditions{}, Conditions{.turns_between_reads = 30},
                                         Conditions{.small_socket = true,
                                                    .turns_between_reads = 50}));

TEST(UartDiscardTest, AfterItsStateIsDiscardedTheStreamsGoOn) {
  FakeConsole console;
  KillableUart uart([&] { return console.Connect(); }, [](int) { return false; });
  const auto exchange = [&] {
    for (int i = 0; i < 10; ++i) {
      console.Receive();
      console.Send();
      uart.RunWatches();
    }
  };
  for (const char c : std::string("before")) uart.Write(0, static_cast<uint8_t>(c));
  uart.Write(2, 7);
  uart.Write(4, 2);
  console.Type("one");
  exchange();
  EXPECT_EQ(console.output(), "before");
  EXPECT_EQ(console.acknowledged(), 3u);

  uart.DiscardState();
  EXPECT_EQ(uart.Read(5) & 1, 0) << "received data is gone with the registers";
  for (const char c : std::string(" after")) uart.Write(0, static_cast<uint8_t>(c));
  console.Type("two");
  uart.Write(2, 7);
  uart.Write(4, 2);
  exchange();
  EXPECT_EQ(console.output(), "before after");
  std::string received;
  while ((uart.Read(5) & 1) != 0) received.push_back(static_cast<char>(uart.Read(0)));
  EXPECT_EQ(received, "two");
}

}  // namespace
}  // namespace bulkhead::devices::uart16550
