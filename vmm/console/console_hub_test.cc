#include "vmm/console/console_hub.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/close_elsewhere.h"
#include "base/memory_mapping.h"
#include "base/message_socket.h"
#include "base/pipe.h"
#include "base/testing/lingering_socket.h"
#include "base/testing/streams.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/console_stream.h"
#include "vmm/console/console_exchange.h"
#include "vmm/console/device_stream.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

// Reads until `size` bytes have come, or nothing comes any more.
std::string ReadSize(int fd, size_t size) {
  std::string text;
  char buffer[65536];
  while (text.size() < size && IsReadable(fd, kPatience)) {
    const ssize_t n = read(fd, buffer, std::min(sizeof(buffer), size - text.size()));
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

std::set<int> OpenDescriptors() {
  std::set<int> open;
  for (int fd = 0; fd < 1024; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) open.insert(fd);
  }
  return open;
}

struct Pipe : bulkhead::Pipe {
  Pipe() : bulkhead::Pipe(*CreatePipe()) {}
  void Write(const std::string& text) const {
    EXPECT_EQ(write(write_end.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
};

// A process of the device. It keeps nothing: a successor is told where it goes on.
class FakeProcess {
 public:
  explicit FakeProcess(ConsoleHub& hub) : socket_(fcntl(hub.Connect(), F_DUPFD_CLOEXEC, 0)) {}

  int socket() const { return socket_.get(); }

  // False: the socket is full.
  bool Send(uint64_t position, uint64_t acknowledged, absl::string_view data = "") const {
    const ConsolePacketHeader header = {position, acknowledged};
    std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
    packet.append(data.data(), data.size());
    return send(socket_.get(), packet.data(), packet.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
  }
  // Waits for a packet.
  bool Receive(ConsolePacketHeader& header, std::string& data) const {
    char packet[DeviceStream::kMaxPacketBytes];
    if (!IsReadable(socket_.get(), kPatience)) return false;
    const ssize_t size = recv(socket_.get(), packet, sizeof(packet), MSG_DONTWAIT);
    if (size < static_cast<ssize_t>(sizeof(header))) return false;
    memcpy(&header, packet, sizeof(header));
    data.assign(packet + sizeof(header), static_cast<size_t>(size) - sizeof(header));
    return true;
  }

  void Greet() {
    ASSERT_TRUE(Send(kConsolePositionUnknown, 0));
    ConsolePacketHeader header;
    std::string data;
    ASSERT_TRUE(Receive(header, data));
    EXPECT_EQ(data, "");
    sent_ = header.acknowledged;
    taken_ = header.position;
  }
  void GoOnAt(uint64_t output_position) {
    sent_ = output_position;
    ASSERT_TRUE(Send(sent_, taken_));
  }
  // Packets of at most `size` bytes, until the socket is full. What is printed.
  size_t Print(absl::string_view text, size_t size = kMaxConsoleBytes) {
    size_t printed = 0;
    while (printed < text.size()) {
      const absl::string_view part = text.substr(printed, size);
      if (!Send(sent_, taken_, part)) break;
      sent_ += part.size();
      printed += part.size();
    }
    return printed;
  }
  // Waits for `size` bytes of input.
  std::string TakeInput(size_t size) {
    std::string input;
    ConsolePacketHeader header;
    std::string data;
    while (input.size() < size && Receive(header, data)) {
      EXPECT_EQ(header.position, taken_);
      taken_ += data.size();
      input += data;
    }
    return input;
  }
  void Acknowledge() const { EXPECT_TRUE(Send(sent_, taken_)); }

 private:
  UniqueFd socket_;
  uint64_t sent_ = 0;
  uint64_t taken_ = 0;
};

// A client whose changes can be waited for.
class TestClient {
 public:
  explicit TestClient(ConsoleHub& hub) {
    client_ = hub.Attach([this] {
      absl::MutexLock lock(&mutex_);
      changed_ = true;
    });
  }
  size_t Type(absl::string_view bytes) { return client_->Type(bytes); }
  bool AwaitChange() {
    absl::MutexLock lock(&mutex_);
    const bool came = mutex_.AwaitWithTimeout(absl::Condition(&changed_), kPatience);
    changed_ = false;
    return came;
  }
  // Takes until `size` bytes have come or were lost.
  std::string Take(size_t size) {
    std::string all;
    while (all.size() + lost_ < size) {
      std::string some;
      uint64_t lost = 0;
      if (client_->Take(1000, some, lost)) {
        lost_ += lost;
        all += some;
      } else if (!AwaitChange()) {
        break;
      }
    }
    return all;
  }
  uint64_t lost() const { return lost_; }

 private:
  absl::Mutex mutex_;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t lost_ = 0;
  std::unique_ptr<ConsoleHub::Client> client_;
};

class ConsoleHubTest : public testing::Test {
 protected:
  ConsoleHubTest() {
    signal(SIGPIPE, SIG_IGN);
    hub_ = *ConsoleHub::Create({.input_fd = in_.read_end.get(), .output_fd = out_.write_end.get()});
  }
  std::string ReadOutput(size_t size) const { return ReadSize(out_.read_end.get(), size); }
  bool HasOutput() const { return IsReadable(out_.read_end.get()); }

  Pipe in_;
  Pipe out_;
  std::unique_ptr<ConsoleHub> hub_;
};

// Closing what a device sends may block for ever: the hub's thread would stand still.
TEST_F(ConsoleHubTest, AProcessCannotSendDescriptors) {
  FakeProcess device(*hub_);
  auto probe = *CreateSocketPair(SOCK_SEQPACKET);
  RefuseDescriptors(probe.first.get());
  const bool kernel_refuses =
      !SendSocketMessage(probe.second.get(), "x", {STDERR_FILENO}).ok();  // from Linux 6.16 on
  EXPECT_EQ(SendSocketMessage(device.socket(), "x", {STDERR_FILENO}).ok(), !kernel_refuses);
}

// As before Linux 6.16. The hub's thread would stand still in the close of such a socket.
TEST_F(ConsoleHubTest, DescriptorsThatTheKernelPassesDoNotHoldTheHubUp) {
  FakeProcess hostile(*hub_);
  for (const int fd : OpenDescriptors()) {
    const int pass = 1;
    setsockopt(fd, SOL_SOCKET, /*SO_PASSRIGHTS*/ 83, &pass, sizeof(pass));  // the hub's is one
  }
  hostile.Greet();
  hostile.Print("before");
  LingeringSocket lingering;
  ASSERT_TRUE(SendSocketMessage(hostile.socket(), "x", {lingering.sender.get()}).ok());
  CloseElsewhere(std::move(lingering.sender));  // the hub may have been quicker
  EXPECT_EQ(ReadOutput(6), "before");
  FakeProcess successor(*hub_);
  successor.Greet();
  successor.Print("after");
  EXPECT_EQ(ReadOutput(5), "after");
  lingering.receiver.reset();
}

TEST_F(ConsoleHubTest, OutputGoesToTheOutputAndToEveryClient) {
  FakeProcess device(*hub_);
  TestClient first(*hub_);
  TestClient second(*hub_);
  device.Greet();
  device.Print("login: ");
  EXPECT_EQ(ReadOutput(7), "login: ");
  EXPECT_EQ(first.Take(7), "login: ");
  EXPECT_EQ(second.Take(7), "login: ");
}

TEST_F(ConsoleHubTest, AClientSeesWhatWasPrintedBeforeItsAttachmentAndAfter) {
  FakeProcess device(*hub_);
  device.Greet();
  device.Print("before ");
  EXPECT_EQ(ReadOutput(7), "before ");
  TestClient client(*hub_);
  EXPECT_EQ(client.Take(7), "before ");
  device.Print("after");
  EXPECT_EQ(client.Take(5), "after");
}

TEST_F(ConsoleHubTest, InputOfAllReachesTheDevice) {
  FakeProcess device(*hub_);
  device.Greet();
  TestClient client(*hub_);
  in_.Write("keys");
  EXPECT_EQ(device.TakeInput(4), "keys");
  EXPECT_EQ(client.Type(" more"), 5u);
  EXPECT_EQ(device.TakeInput(5), " more");
}

TEST_F(ConsoleHubTest, AfterTheEndOfTheInputClientsCanStillType) {
  FakeProcess device(*hub_);
  device.Greet();
  in_.Write("bye");
  in_.write_end.reset();
  EXPECT_EQ(device.TakeInput(3), "bye");
  TestClient client(*hub_);
  client.Type("still here");
  EXPECT_EQ(device.TakeInput(10), "still here");
}

TEST_F(ConsoleHubTest, WhatADeadProcessHasSentComesOutBeforeItsSuccessors) {
  const std::string all = Letters(20'000);
  size_t printed = 0;
  while (printed < all.size()) {
    FakeProcess device(*hub_);
    device.Greet();
    printed += device.Print(absl::string_view(all).substr(printed, 3'000), 7);
  }
  EXPECT_EQ(ReadOutput(all.size()), all);
}

// Between the hub's look at a socket and what it does then, a process may send, die and be followed
// by another.
TEST_F(ConsoleHubTest, WhatAProcessSendsRightBeforeItsDeathIsNeverLost) {
  constexpr int kProcesses = 20000;
  const std::string text = Letters(8);
  // Has the hub look again and again.
  std::atomic<bool> done = false;
  std::thread looks([&] {
    while (!done) hub_->Drain(absl::ZeroDuration());
  });
  uint64_t position = 0;
  std::string output;
  for (int i = 0; i < kProcesses; ++i) {
    FakeProcess process(*hub_);
    process.GoOnAt(position);
    process.Print(text);
    position += text.size();
    if (i % 100 == 99) output += ReadOutput(100 * text.size());
  }
  done = true;
  looks.join();
  EXPECT_EQ(output.size(), kProcesses * text.size());
}

TEST_F(ConsoleHubTest, ManyProcessesMayDieWhileTheOutputIsStuck) {
  std::string sent;
  const std::string all = Letters(2'000'000);
  const auto print_all = [&](FakeProcess& device) {
    for (size_t printed = 1; printed != 0;) {
      printed = device.Print(absl::string_view(all).substr(sent.size()));
      sent += all.substr(sent.size(), printed);
    }
  };
  FakeProcess first(*hub_);
  first.Greet();
  for (int i = 0; i < 3; ++i) {
    print_all(first);
    pollfd entry = {.fd = first.socket(), .events = POLLOUT, .revents = 0};
    poll(&entry, 1, 200);
  }
  // Nobody answers them; each has saved where it is.
  for (int i = 0; i < 5; ++i) {
    FakeProcess successor(*hub_);
    successor.GoOnAt(sent.size());
    print_all(successor);
  }
  ASSERT_LT(sent.size(), all.size());
  EXPECT_TRUE(ReadOutput(sent.size()) == sent);
}

TEST_F(ConsoleHubTest, InputThatADeadProcessDidNotAcknowledgeComesAgain) {
  {
    FakeProcess device(*hub_);
    device.Greet();
    in_.Write("one ");
    EXPECT_EQ(device.TakeInput(4), "one ");
    device.Acknowledge();
    in_.Write("two ");
    EXPECT_EQ(device.TakeInput(4), "two ");
    in_.Write("three");  // not even read
    EXPECT_TRUE(IsReadable(device.socket(), kPatience));
  }
  FakeProcess successor(*hub_);
  successor.Greet();
  EXPECT_EQ(successor.TakeInput(9), "two three");
}

TEST_F(ConsoleHubTest, WhileTheOutputTakesNoneTheDeviceHasToWaitAndNothingIsLost) {
  FakeProcess device(*hub_);
  device.Greet();
  const std::string all = Letters(2'000'000);
  size_t printed = 0;
  // Until it is stuck: the pipe, the hub and the socket are full.
  while (true) {
    printed += device.Print(absl::string_view(all).substr(printed));
    ASSERT_LT(printed, all.size()) << "nobody told it to wait";
    pollfd entry = {.fd = device.socket(), .events = POLLOUT, .revents = 0};
    if (poll(&entry, 1, 500) == 0) break;
  }
  std::string read;
  while (read.size() < all.size()) {
    const std::string some = ReadOutput(std::min<size_t>(4'000, all.size() - read.size()));
    ASSERT_FALSE(some.empty()) << read.size();
    read += some;
    printed += device.Print(absl::string_view(all).substr(printed));
  }
  EXPECT_TRUE(read == all);
}

TEST_F(ConsoleHubTest, AClientThatIsTooFarBehindIsToldWhatItHasLost) {
  FakeProcess device(*hub_);
  device.Greet();
  TestClient slow(*hub_);
  const std::string all = Letters(3 * ConsoleExchange::kMaxClientBytes);
  for (size_t printed = 0; printed < all.size();) {
    const size_t count = device.Print(absl::string_view(all).substr(printed, 50'000));
    EXPECT_EQ(ReadOutput(count).size(), count);
    printed += count;
  }
  const std::string taken = slow.Take(all.size());
  EXPECT_GT(slow.lost(), 0u);
  EXPECT_LE(taken.size(), ConsoleExchange::kMaxClientBytes);
  EXPECT_GE(taken.size(), ConsoleExchange::kMaxClientBytes / 2);
  EXPECT_TRUE(taken == all.substr(slow.lost()));
}

TEST_F(ConsoleHubTest, WithoutRoomNoMoreIsTypedAndItsReturnIsTold) {
  FakeProcess device(*hub_);
  device.Greet();
  TestClient client(*hub_);
  const std::string all = Letters(2 * DeviceStream::kMaxKeptInput);
  size_t typed = client.Type(all);
  EXPECT_EQ(typed, DeviceStream::kMaxKeptInput);
  EXPECT_EQ(client.Type("x"), 0u);
  std::string taken;
  while (taken.size() < all.size()) {
    const std::string some = device.TakeInput(std::min<size_t>(10'000, typed - taken.size()));
    ASSERT_FALSE(some.empty());
    taken += some;
    device.Acknowledge();
    if (typed == all.size()) continue;
    ASSERT_TRUE(client.AwaitChange());
    typed += client.Type(absl::string_view(all).substr(typed));
  }
  EXPECT_TRUE(taken == all);
}

TEST_F(ConsoleHubTest, AFloodOfInputLeavesRoomForClients) {
  FakeProcess device(*hub_);
  device.Greet();
  in_.Write(Letters(50'000));
  EXPECT_EQ(device.TakeInput(DeviceStream::kMaxKeptInput / 2).size(),
            DeviceStream::kMaxKeptInput / 2);
  EXPECT_EQ(TestClient(*hub_).Type("help"), 4u);
  EXPECT_EQ(device.TakeInput(4), "help");
}

TEST_F(ConsoleHubTest, ADeviceThatShutsItsStreamDownHarmsNobodyElse) {
  FakeProcess hostile(*hub_);
  hostile.Greet();
  hostile.Print("last words");
  shutdown(hostile.socket(), SHUT_RDWR);
  EXPECT_EQ(ReadOutput(10), "last words");
  hub_->Drain(kPatience);
  FakeProcess successor(*hub_);
  successor.Greet();
  successor.Print("hello");
  EXPECT_EQ(ReadOutput(5), "hello");
}

TEST_F(ConsoleHubTest, WhatIsNoPacketIsIgnored) {
  FakeProcess device(*hub_);
  device.Greet();
  const std::string junk(100'000, '\xff');
  for (const size_t size : {0, 1, 15, 16, 4113, 100'000}) {
    EXPECT_EQ(send(device.socket(), junk.data(), size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }
  device.Print("still here");
  EXPECT_EQ(ReadOutput(10), "still here");
}

TEST_F(ConsoleHubTest, AFloodDoesNotKeepInputAway) {
  FakeProcess device(*hub_);
  device.Greet();
  in_.Write("stop");
  std::string input;
  const absl::Time deadline = absl::Now() + kPatience;
  while (input.empty() && absl::Now() < deadline) {
    for (int i = 0; i < 100; ++i) device.Send(0, 0, "");
    if (IsReadable(device.socket())) input = device.TakeInput(4);
  }
  EXPECT_EQ(input, "stop");
}

TEST_F(ConsoleHubTest, DrainWaitsUntilAllIsWritten) {
  FakeProcess device(*hub_);
  device.Greet();
  const std::string all = Letters(30'000);  // the pipe has room for them
  size_t printed = 0;
  while (printed < all.size()) printed += device.Print(absl::string_view(all).substr(printed), 100);
  hub_->Drain(kPatience);
  ASSERT_TRUE(HasOutput());
  std::string read(all.size(), 0);
  EXPECT_EQ(::read(out_.read_end.get(), read.data(), read.size()),
            static_cast<ssize_t>(all.size()));
  EXPECT_TRUE(read == all);
}

TEST_F(ConsoleHubTest, DrainDoesNotWaitLongForAReaderThatNeverReads) {
  FakeProcess device(*hub_);
  device.Greet();
  for (int i = 0; i < 100; ++i) device.Print(Letters(4096));
  const absl::Time start = absl::Now();
  hub_->Drain(absl::Milliseconds(50));
  hub_.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST_F(ConsoleHubTest, TheHubsEndWritesWhatTheDeviceHasSent) {
  FakeProcess device(*hub_);
  device.Greet();
  const size_t printed = device.Print(Letters(5'000), 10);
  hub_.reset();
  EXPECT_GT(printed, 0u);
  EXPECT_EQ(ReadOutput(printed), Letters(printed));
}

TEST_F(ConsoleHubTest, AClientMayOutliveTheHub) {
  FakeProcess device(*hub_);
  device.Greet();
  TestClient client(*hub_);
  device.Print("bye");
  hub_.reset();
  EXPECT_EQ(client.Type("anyone?"), 0u);
  EXPECT_EQ(client.Take(3), "bye");
}

TEST_F(ConsoleHubTest, ACallbackMayTakeAndType) {
  FakeProcess device(*hub_);
  device.Greet();
  std::atomic<ConsoleHub::Client*> echo{nullptr};
  const std::unique_ptr<ConsoleHub::Client> client = hub_->Attach([&] {
    std::string text;
    uint64_t lost = 0;
    if (echo.load()->Take(100, text, lost)) echo.load()->Type(text);
  });
  echo = client.get();
  device.Print("echo");
  EXPECT_EQ(device.TakeInput(4), "echo");
}

TEST(ConsoleHubStreamsTest, ADetachedConsoleLosesNoInputAndWaitsForNobody) {
  const auto hub = *ConsoleHub::Create({});
  FakeProcess device(*hub);
  device.Greet();
  for (int i = 0; i < 1000; ++i) {
    while (device.Print(Letters(4096)) == 0) {
      pollfd entry = {.fd = device.socket(), .events = POLLOUT, .revents = 0};
      ASSERT_EQ(poll(&entry, 1, 20'000), 1);
    }
  }
  hub->Drain(kPatience);
  TestClient client(*hub);
  std::string last;
  for (int i = 0; i < 16; ++i) last += Letters(4096);
  EXPECT_EQ(client.Take(64 * 1024), last) << "the last of it is kept";
  client.Type("keys");
  EXPECT_EQ(device.TakeInput(4), "keys");
}

TEST(ConsoleHubStreamsTest, FilesAreInputAndOutput) {
  const UniqueFd input = *CreateMemfd("script", 0);
  const UniqueFd output = *CreateMemfd("log", 0);
  const std::string script = Letters(200'000);
  ASSERT_EQ(pwrite(input.get(), script.data(), script.size(), 0), 200'000);
  const auto hub = *ConsoleHub::Create({.input_fd = input.get(), .output_fd = output.get()});
  FakeProcess device(*hub);
  device.Greet();
  std::string taken;
  while (taken.size() < script.size()) {
    const std::string some = device.TakeInput(1);
    ASSERT_FALSE(some.empty());
    taken += some;
    device.Acknowledge();
  }
  EXPECT_TRUE(taken == script);
  device.Print("written");
  hub->Drain(kPatience);
  char text[20] = {};
  EXPECT_EQ(pread(output.get(), text, sizeof(text), 0), 7);
  EXPECT_STREQ(text, "written");
}

TEST(ConsoleHubStreamsTest, AnInputThatHasEndedAlreadyIsNoneAtAll) {
  const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto hub = *ConsoleHub::Create({.input_fd = null.get()});
  FakeProcess device(*hub);
  device.Greet();
  TestClient client(*hub);
  client.Type("keys");
  EXPECT_EQ(device.TakeInput(4), "keys");
}

}  // namespace
}  // namespace bulkhead::vmm
