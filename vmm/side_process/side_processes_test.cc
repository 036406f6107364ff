#include "vmm/side_process/side_processes.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/pipe.h"
#include "base/send_packet.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

// A process that writes its pid to a pipe, and waits.
class SideProcessesTest : public testing::Test {
 protected:
  SideProcess PidWriter() {
    const auto pipe = std::make_shared<const UniqueFd>(std::move(pipe_.write_end));
    return {.name = "writer",
            .run =
                [pipe](const SideProcessStart&) {
                  const pid_t pid = getpid();
                  (void)!write(pipe->get(), &pid, sizeof(pid));
                  while (true) pause();
                },
            .descriptors = {pipe}};
  }
  void Start(SideProcess process) {
    std::vector<SideProcess> processes;
    processes.push_back(std::move(process));
    processes_ = SideProcesses::Start(std::move(processes)).value();
  }
  // -1: no process can write any more.
  pid_t NextPid() {
    pid_t pid = -1;
    return read(pipe_.read_end.get(), &pid, sizeof(pid)) == sizeof(pid) ? pid : -1;
  }

  Pipe pipe_ = CreatePipe().value();
  std::unique_ptr<SideProcesses> processes_;
};

TEST_F(SideProcessesTest, NoneNeedNoKeeper) {
  EXPECT_EQ(SideProcesses::Start({}).value(), nullptr);
}

TEST_F(SideProcessesTest, AProcessThatDiesIsReplaced) {
  Start(PidWriter());
  pid_t before = 0;
  for (int i = 0; i < 3; ++i) {
    const pid_t pid = NextPid();
    ASSERT_GT(pid, 0);
    EXPECT_NE(pid, before);
    kill(pid, SIGKILL);
    before = pid;
  }
}

TEST_F(SideProcessesTest, AllEndWithTheObject) {
  Start(PidWriter());
  ASSERT_GT(NextPid(), 0);
  processes_.reset();
  EXPECT_EQ(NextPid(), -1);
}

TEST_F(SideProcessesTest, AllEndWithTheirParentAndWithTheKeeper) {
  for (const bool kill_parent : {true, false}) {
    pipe_ = CreatePipe().value();
    const pid_t parent = fork();
    ASSERT_GE(parent, 0);
    if (parent == 0) {
      Start(PidWriter());
      while (true) pause();
    }
    pipe_.write_end.reset();
    ASSERT_GT(NextPid(), 0);
    kill(kill_parent ? parent : ChildOf(parent), SIGKILL);
    EXPECT_EQ(NextPid(), -1);
    kill(parent, SIGKILL);
    waitpid(parent, nullptr, 0);
  }
}

// What a process is told of its clients: "e3" for an earlier client 3, "n3" for a new one, each
// over the client's socket.
TEST_F(SideProcessesTest, ASuccessorHasTheClientsThatItsPredecessorHad) {
  auto control = CreateSocketPair(SOCK_SEQPACKET).value();
  Start({.name = "greeter",
         .run =
             [](const SideProcessStart& start) {
               const auto greet = [](int socket, char kind, uint32_t index) {
                 const char text[] = {kind, static_cast<char>('0' + index)};
                 SendPacket(socket, text, sizeof(text), -1);
               };
               for (uint32_t i = 0; i < start.earlier_clients.size(); ++i) {
                 if (start.earlier_clients[i] >= 0) greet(start.earlier_clients[i], 'e', i);
               }
               while (true) {
                 const absl::StatusOr<SocketMessage> message =
                     ReceiveSocketMessage(start.clients, 64, absl::Hours(1));
                 if (!message.ok()) _exit(1);
                 uint32_t index = 0;
                 memcpy(&index, message->bytes.data(), sizeof(index));
                 greet(message->descriptors.at(0).get(), 'n', index);
                 // Dies of client 9.
                 if (index == 9) kill(getpid(), SIGKILL);
               }
             },
         .clients = std::move(control.second)});
  const auto add_client = [&](uint32_t index) {
    auto sockets = CreateSocketPair(SOCK_SEQPACKET).value();
    EXPECT_TRUE(SendPacket(control.first.get(), &index, sizeof(index), sockets.second.get()));
    return std::move(sockets.first);
  };
  const auto heard = [](const UniqueFd& client) {
    return ReceiveSocketMessage(client.get(), 64, absl::Seconds(20)).value().bytes;
  };
  const UniqueFd third = add_client(3);
  EXPECT_EQ(heard(third), "n3");
  const UniqueFd replaced = add_client(0);
  EXPECT_EQ(heard(replaced), "n0");
  const UniqueFd first = add_client(0);
  EXPECT_EQ(heard(first), "n0");
  EXPECT_TRUE(
      absl::IsUnavailable(ReceiveSocketMessage(replaced.get(), 64, absl::Seconds(20)).status()))
      << "nobody has its socket any more";
  const UniqueFd deadly = add_client(9);
  EXPECT_EQ(heard(deadly), "n9");
  for (const UniqueFd* client : {&third, &first, &deadly}) {
    EXPECT_EQ(heard(*client).substr(0, 1), "e");
  }
  const UniqueFd late = add_client(1);
  EXPECT_EQ(heard(late), "n1");
  // What is nonsense does no harm.
  const uint32_t beyond = kMaxSideClients;
  EXPECT_TRUE(SendPacket(control.first.get(), &beyond, sizeof(beyond), late.get()));
  EXPECT_TRUE(SendPacket(control.first.get(), "x", 1, late.get()));
  EXPECT_EQ(heard(add_client(2)), "n2");
}

TEST_F(SideProcessesTest, OneThatIsNoLongerNeededIsNotReplaced) {
  const auto pipe = std::make_shared<const UniqueFd>(std::move(pipe_.write_end));
  const auto process = [&](pid_t tells, bool dies) {
    return SideProcess{.name = "teller",
                       .run =
                           [pipe, tells, dies](const SideProcessStart&) {
                             (void)!write(pipe->get(), &tells, sizeof(tells));
                             _exit(dies ? 1 : 0);
                           },
                       .descriptors = {pipe}};
  };
  std::vector<SideProcess> processes;
  processes.push_back(process(1, /*dies=*/false));
  processes.push_back(process(2, /*dies=*/true));
  processes_ = SideProcesses::Start(std::move(processes)).value();
  // The other's fourth start comes long after the first pause.
  int starts[3] = {};
  while (starts[2] < 4) ++starts[NextPid()];
  EXPECT_EQ(starts[1], 1);
}

}  // namespace
}  // namespace bulkhead::vmm
