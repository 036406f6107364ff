// With a fake of passt: this program itself, which sends frames back, and ends when one says so.
#include "vmm/user_net/user_net.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

const std::string kHeader(12, '\0');

std::string Self() {
  char path[PATH_MAX] = {};
  return readlink("/proc/self/exe", path, sizeof(path) - 1) < 0 ? "" : path;
}

// As the program's arguments ask for; returns its exit code.
int RunFakePasst(int argc, char** argv) {
  std::string words;
  for (int i = 1; i < argc; ++i) words += std::string(argv[i]) + " ";
  if (words !=
      "--foreground --stderr --quiet --fd 3 --no-map-gw --tcp-ports 127.0.0.1/8022:22 --tcp-ports "
      "80:80 ") {
    return 2;
  }
  std::string bytes(1 << 17, '\0');
  ssize_t size;
  while ((size = read(3, bytes.data(), bytes.size())) > 0) {
    if (bytes[4] == 'e') return 1;
    if (write(3, bytes.data(), static_cast<size_t>(size)) != size) return 3;
  }
  return 0;
}

std::string Frame(char letter) { return kHeader + std::string(60, letter); }

// Sends the frame until it comes back: a program that has just ended loses some.
bool Echoes(int socket, char letter) {
  const std::string frame = Frame(letter);
  for (int i = 0; i < 500; ++i) {
    if (write(socket, frame.data(), frame.size()) < 0 && errno != EAGAIN) return false;
    pollfd ready = {.fd = socket, .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, 20) != 1) continue;
    std::string got(1000, '\0');
    const ssize_t size = read(socket, got.data(), got.size());
    if (size > 0 && got.substr(0, static_cast<size_t>(size)) == frame) return true;
  }
  return false;
}

std::unique_ptr<UserNet> StartNet() {
  return *UserNet::Start({.program = Self(), .forwards = {"127.0.0.1/8022:22", "80:80"}},
                         /*confined=*/true);
}

TEST(UserNetTest, FramesPassAndAProgramThatEndsIsStartedAgain) {
  const std::unique_ptr<UserNet> net = StartNet();
  const int socket = net->SocketForProcess();
  ASSERT_GE(socket, 0);
  EXPECT_TRUE(Echoes(socket, 'a'));
  const std::string end = Frame('e');
  ASSERT_EQ(write(socket, end.data(), end.size()), static_cast<ssize_t>(end.size()));
  EXPECT_TRUE(Echoes(socket, 'b'));
}

TEST(UserNetTest, ADevicesSuccessorUsesTheSameProgram) {
  const std::unique_ptr<UserNet> net = StartNet();
  EXPECT_TRUE(Echoes(net->SocketForProcess(), 'a'));
  const int successor = net->SocketForProcess();
  ASSERT_GE(successor, 0);
  EXPECT_TRUE(Echoes(successor, 'b'));
}

std::string NameOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

pid_t Keeper() {
  std::ifstream children("/proc/self/task/" + std::to_string(gettid()) + "/children");
  for (pid_t child; children >> child;) {
    if (NameOf(child) == "vmm-net-keeper") return child;
  }
  return -1;
}

TEST(UserNetTest, AKeeperThatIsStoppedHoldsNothingUp) {
  std::unique_ptr<UserNet> net = StartNet();
  EXPECT_TRUE(Echoes(net->SocketForProcess(), 'a'));
  const pid_t keeper = Keeper();
  ASSERT_GT(keeper, 0);
  ASSERT_EQ(kill(keeper, SIGSTOP), 0);
  net.reset();
  EXPECT_EQ(NameOf(keeper), "");
}

TEST(UserNetTest, AProgramThatCannotRunHoldsNothingUp) {
  const std::unique_ptr<UserNet> net =
      *UserNet::Start({.program = "/no/such/passt", .forwards = {}}, /*confined=*/true);
  const int socket = net->SocketForProcess();
  ASSERT_GE(socket, 0);
  const std::string frame = Frame('a');
  EXPECT_EQ(write(socket, frame.data(), frame.size()), static_cast<ssize_t>(frame.size()));
}

}  // namespace

int Main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "--foreground") == 0) return RunFakePasst(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace bulkhead::vmm

int main(int argc, char** argv) { return bulkhead::vmm::Main(argc, argv); }
