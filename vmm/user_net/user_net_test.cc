// With a fake of passt: this program itself, which sends frames back, and ends when one says so.
#include "vmm/user_net/user_net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "vmm/config/program_report.h"
#include "vmm/config/vm_spec.h"
#include "vmm/side_process/side_processes.h"

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

// A network, and its processes.
struct RunningNet {
  explicit RunningNet(const std::string& program = Self()) {
    std::vector<SideProcess> list;
    net = *UserNet::Create({.program = program, .forwards = {"127.0.0.1/8022:22", "80:80"}},
                           /*confined=*/true, list);
    processes = *SideProcesses::Start(std::move(list));
  }
  UserNet* operator->() const { return net.get(); }

  std::unique_ptr<UserNet> net;
  std::unique_ptr<SideProcesses> processes;
};

TEST(UserNetTest, FramesPassAndAProgramThatEndsIsStartedAgain) {
  const RunningNet net;
  const int socket = net->SocketForProcess();
  ASSERT_GE(socket, 0);
  EXPECT_TRUE(Echoes(socket, 'a'));
  const std::string end = Frame('e');
  ASSERT_EQ(write(socket, end.data(), end.size()), static_cast<ssize_t>(end.size()));
  EXPECT_TRUE(Echoes(socket, 'b'));
}

TEST(UserNetTest, ADevicesSuccessorUsesTheSameProgram) {
  const RunningNet net;
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

// A child of that name; -1: none comes.
pid_t ChildOf(pid_t parent, const std::string& name, pid_t other_than = 0) {
  for (int i = 0; i < 5000; ++i) {
    const std::string pid = std::to_string(parent);
    std::ifstream children("/proc/" + pid + "/task/" + pid + "/children");
    for (pid_t child; children >> child;) {
      if (child != other_than && NameOf(child) == name) return child;
    }
    usleep(2000);
  }
  return -1;
}

TEST(UserNetTest, AKeeperOrRelayThatDiesIsReplacedAndTheDeviceKeepsItsSocket) {
  const RunningNet net;
  const int socket = net->SocketForProcess();
  EXPECT_TRUE(Echoes(socket, 'a'));
  const pid_t guard = ChildOf(getpid(), "vmm-keeper");
  char letter = 'p';
  for (const bool kills_relay : {false, true, true, false}) {
    const pid_t keeper = ChildOf(guard, "vmm-net-keeper");
    const pid_t relay = ChildOf(keeper, "vmm-net-relay");
    ASSERT_GT(relay, 0);
    ASSERT_EQ(kill(kills_relay ? relay : keeper, SIGKILL), 0);
    EXPECT_GT(ChildOf(guard, "vmm-net-keeper", keeper), 0);
    EXPECT_TRUE(Echoes(socket, letter++)) << kills_relay;
  }
  const ProgramReport::Figures figures = net->report()->Read();
  EXPECT_EQ(figures.starts, 5u);
  EXPECT_GT(figures.pid, 0);
  EXPECT_GT(figures.age, absl::ZeroDuration());
}

TEST(UserNetTest, AKeeperThatIsStoppedHoldsNothingUp) {
  auto net = std::make_unique<RunningNet>();
  EXPECT_TRUE(Echoes((*net)->SocketForProcess(), 'a'));
  const pid_t keeper = ChildOf(ChildOf(getpid(), "vmm-keeper"), "vmm-net-keeper");
  ASSERT_GT(keeper, 0);
  ASSERT_EQ(kill(keeper, SIGSTOP), 0);
  net.reset();
  for (int i = 0; i < 5000 && NameOf(keeper) == "vmm-net-keeper"; ++i) usleep(2000);
  EXPECT_NE(NameOf(keeper), "vmm-net-keeper");
}

TEST(UserNetTest, AProgramOrRelayThatIsStoppedIsReported) {
  const RunningNet net;
  const int socket = net->SocketForProcess();
  EXPECT_TRUE(Echoes(socket, 'a'));
  const pid_t keeper = ChildOf(ChildOf(getpid(), "vmm-keeper"), "vmm-net-keeper");
  const pid_t program = net->report()->Read().pid;
  const auto is_reported = [&net](bool is_stopped) {
    for (int i = 0; i < 5000 && net->report()->Read().is_stopped != is_stopped; ++i) usleep(2000);
    return net->report()->Read().is_stopped == is_stopped;
  };
  for (const pid_t process : {program, ChildOf(keeper, "vmm-net-relay")}) {
    ASSERT_GT(process, 0);
    ASSERT_EQ(kill(process, SIGSTOP), 0);
    EXPECT_TRUE(is_reported(true));
    ASSERT_EQ(kill(process, SIGCONT), 0);
    EXPECT_TRUE(is_reported(false));
  }
  EXPECT_TRUE(Echoes(socket, 'b'));
  EXPECT_EQ(net->report()->Read().pid, program);
  ASSERT_EQ(kill(program, SIGSTOP), 0);
  EXPECT_TRUE(is_reported(true));
  ASSERT_EQ(kill(program, SIGKILL), 0);
  EXPECT_TRUE(is_reported(false));
  EXPECT_TRUE(Echoes(socket, 'c'));
  EXPECT_EQ(net->report()->Read().starts, 2u);
}

TEST(UserNetTest, FramesThatADeadProcessHadNotTakenAreItsSuccessors) {
  const RunningNet net;
  int socket = net->SocketForProcess();
  EXPECT_TRUE(Echoes(socket, 'a'));
  for (const char letter : {'b', 'c', 'd'}) {
    const std::string frame = Frame(letter);
    ASSERT_EQ(write(socket, frame.data(), frame.size()), static_cast<ssize_t>(frame.size()));
  }
  // Until they have come back, and none of Echoes() is before them.
  std::string got(1000, '\0');
  int waiting = 0;
  for (int i = 0; i < 500 && waiting < 3 * 72; ++i) {
    usleep(20'000);
    while (recv(socket, got.data(), got.size(), MSG_PEEK) > 20 && got[20] == 'a') {
      ASSERT_GT(recv(socket, got.data(), got.size(), 0), 0);
    }
    ASSERT_EQ(ioctl(socket, SIOCINQ, &waiting), 0);
  }
  socket = net->SocketForProcess();
  // A second one that dies at once.
  socket = net->SocketForProcess();
  for (const char letter : {'b', 'c', 'd'}) {
    pollfd ready = {.fd = socket, .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&ready, 1, 10'000), 1) << letter;
    const ssize_t size = recv(socket, got.data(), got.size(), 0);
    ASSERT_GT(size, 0);
    EXPECT_EQ(got.substr(0, static_cast<size_t>(size)), Frame(letter)) << letter;
  }
  EXPECT_EQ(net->report()->Read().lost_from_device, 0u);
  EXPECT_EQ(net->report()->Read().lost_to_device, 0u);
  EXPECT_TRUE(Echoes(socket, 'f'));
}

// A listener on 127.0.0.1, and its port.
UniqueFd ListenAnywhere(uint16_t& port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
  EXPECT_EQ(listen(fd.get(), 1), 0);
  EXPECT_EQ(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  port = ntohs(address.sin_port);
  return fd;
}

TEST(UserNetTest, APortThatIsTakenIsNamedBeforeAnythingIsStarted) {
  uint16_t port = 0;
  UniqueFd listener = ListenAnywhere(port);
  std::vector<DeviceSpec> devices(1);
  devices[0].name = "net0";
  const std::string forward = "127.0.0.1/" + std::to_string(port) + ":22";
  devices[0].resources.push_back(
      {.name = "tap", .user_net = UserNetSpec{.program = Self(), .forwards = {forward}}});
  std::vector<SideProcess> processes;
  const absl::Status taken = AddUserNets(devices, /*confined=*/false, processes);
  EXPECT_EQ(taken.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(taken.message(), "device \"net0\": port " + std::to_string(port) +
                                 " of 127.0.0.1 cannot be forwarded: Address already in use");
  EXPECT_TRUE(processes.empty());
  EXPECT_EQ(devices[0].program, nullptr);
  listener.reset();
  EXPECT_TRUE(CheckForwards(devices).ok());
  ASSERT_TRUE(AddUserNets(devices, /*confined=*/false, processes).ok());
  ASSERT_NE(devices[0].program, nullptr);
  EXPECT_EQ(devices[0].program->path(), Self());
  // Two that want the same one.
  devices[0].resources[0].user_net->forwards.push_back(forward);
  EXPECT_FALSE(CheckForwards(devices).ok());
}

TEST(UserNetTest, AProgramThatCannotRunHoldsNothingUp) {
  const RunningNet net("/no/such/passt");
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
