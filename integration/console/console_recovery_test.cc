// The serial port's model and the vmm's hub together, while processes of the one die and output
// is taken slowly from the other: what is typed reaches the guest, and what it prints comes out,
// complete, in order and once.

#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/pipe.h"
#include "base/testing/streams.h"
#include "base/unique_fd.h"
#include "devices/uart16550/testing/killable_uart.h"
#include "gtest/gtest.h"
#include "vmm/console/console_hub.h"

namespace bulkhead::integration {
namespace {

using devices::uart16550::InterruptDrivenGuest;
using devices::uart16550::KillableUart;
using vmm::ConsoleHub;

constexpr absl::Duration kPatience = absl::Seconds(30);

struct Pipe : bulkhead::Pipe {
  Pipe() : bulkhead::Pipe(*CreatePipe(O_NONBLOCK)) {}
  std::string Read(size_t size) const {
    std::string text(size, 0);
    text.resize(
        static_cast<size_t>(std::max<ssize_t>(read(read_end.get(), text.data(), text.size()), 0)));
    return text;
  }
};

struct Conditions {
  uint32_t seed;
  uint32_t steps_between_deaths;
  bool typed_by_client;
  uint32_t turns_between_reads;  // of the output
};

class ConsoleRecoveryTest : public testing::TestWithParam<Conditions> {};

TEST_P(ConsoleRecoveryTest, NothingIsLostOrRepeated) {
  const Conditions conditions = GetParam();
  const std::string printed = Letters(8'000, 'a');
  const std::string typed = Letters(1'000, 'A');
  const Pipe in;
  const Pipe out;
  const auto hub =
      *ConsoleHub::Create({.input_fd = in.read_end.get(), .output_fd = out.write_end.get()});
  const auto client = hub->Attach([] {});
  std::mt19937 random(conditions.seed);
  KillableUart uart([&] { return UniqueFd(fcntl(hub->Connect(), F_DUPFD_CLOEXEC, 0)); },
                    [&](int) { return random() % conditions.steps_between_deaths == 0; });
  InterruptDrivenGuest guest(uart, printed);

  std::string output;
  std::string clients_output;
  size_t typed_bytes = 0;
  const absl::Time deadline = absl::Now() + kPatience;
  for (uint32_t turn = 0; absl::Now() < deadline; ++turn) {
    guest.Work();
    const absl::string_view next = absl::string_view(typed).substr(typed_bytes, 20);
    if (conditions.typed_by_client) {
      typed_bytes += client->Type(next);
    } else if (write(in.write_end.get(), next.data(), next.size()) > 0) {
      typed_bytes += next.size();
    }
    if (turn % conditions.turns_between_reads == 0) output += out.Read(1'000);
    std::string some;
    uint64_t lost = 0;
    if (client->Take(1'000, some, lost)) clients_output += some;
    EXPECT_EQ(lost, 0u);
    uart.RunWatches(/*timeout_ms=*/1);
    if (output.size() >= printed.size() && guest.received().size() >= typed.size() &&
        clients_output.size() >= printed.size()) {
      break;
    }
  }
  EXPECT_EQ(output, printed);
  EXPECT_EQ(clients_output, printed);
  EXPECT_EQ(guest.received(), typed);
  EXPECT_GT(uart.processes(), 10);
}

INSTANTIATE_TEST_SUITE_P(Conditions, ConsoleRecoveryTest,
                         testing::Values(Conditions{1, 10, false, 1}, Conditions{2, 100, true, 1},
                                         Conditions{3, 300, false, 50},
                                         Conditions{4, 30, true, 50}));

}  // namespace
}  // namespace bulkhead::integration
