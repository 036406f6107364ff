// vmctl metrics --listen, as a program: beside fake VMs, against well-behaved and hostile clients.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/vmctl/http_request.h"
#include "tools/vmctl/testing/child_process.h"
#include "tools/vmctl/testing/exposition_format.h"
#include "tools/vmctl/testing/vmctl_fixture.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kGetMetrics[] = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
// As MetricsServer::kMaxConnections.
constexpr int kMaxConnections = 32;
constexpr int kPatienceMs = 60'000;

class VmctlMetricsTest : public VmctlTest {
 protected:
  // Starts vmctl on a free port.
  void Serve(std::vector<std::string> arguments = {}) {
    arguments.insert(arguments.begin(), {"metrics", "--listen", "127.0.0.1:0"});
    vmctl_ = StartVmctl(arguments);
    vmctl_->WaitForError("/metrics\n");
    absl::string_view text = vmctl_->error();
    const size_t begin = text.find("127.0.0.1:");
    ASSERT_NE(begin, absl::string_view::npos) << text;
    text = text.substr(begin + 10);
    int port = 0;
    ASSERT_TRUE(absl::SimpleAtoi(text.substr(0, text.find('/')), &port)) << vmctl_->error();
    address_.sin_family = AF_INET;
    address_.sin_port = htons(static_cast<uint16_t>(port));
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }

  UniqueFd Connect() {
    UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(socket.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof(address_)),
              0);
    return socket;
  }

  static void Send(const UniqueFd& socket, absl::string_view bytes) {
    (void)!send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }

  // All that comes until the server closes the connection, or resets it.
  static std::string ReadAll(const UniqueFd& socket) {
    std::string bytes;
    char piece[4096];
    while (true) {
      pollfd polled = {.fd = socket.get(), .events = POLLIN, .revents = 0};
      if (poll(&polled, 1, kPatienceMs) != 1) return bytes + "(no end)";
      const ssize_t count = recv(socket.get(), piece, sizeof(piece), 0);
      if (count <= 0) return bytes;
      bytes.append(piece, static_cast<size_t>(count));
    }
  }

  std::string Ask(absl::string_view request) {
    const UniqueFd socket = Connect();
    Send(socket, request);
    return ReadAll(socket);
  }

  // The body of a good answer.
  std::string Scrape() {
    const std::string answer = Ask(kGetMetrics);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
    const size_t end = answer.find("\r\n\r\n");
    return end == std::string::npos ? "" : answer.substr(end + 4);
  }

  sockaddr_in address_ = {};
  std::unique_ptr<ChildProcess> vmctl_;
};

TEST_F(VmctlMetricsTest, ServesAllVmsThatRunAtEachRequest) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  std::unique_ptr<ChildProcess> mail = StartVm("mail");
  LeaveStaleSocket("gone");
  Serve();
  std::string page = Scrape();
  EXPECT_THAT(ProblemsOfExposition(page), IsEmpty()) << page;
  EXPECT_THAT(page, HasSubstr("bulkhead_vm_up{vm=\"mail\"} 1\nbulkhead_vm_up{vm=\"web\"} 1\n"));
  EXPECT_THAT(
      page,
      HasSubstr("bulkhead_device_accesses_total{device=\"disk0\",kind=\"read\",vm=\"mail\"} "));
  EXPECT_THAT(
      page,
      HasSubstr("bulkhead_device_accesses_total{device=\"disk0\",kind=\"read\",vm=\"web\"} "));
  EXPECT_THAT(page, Not(HasSubstr("gone")));

  End(*mail);
  const std::unique_ptr<ChildProcess> other = StartVm("other");
  page = Scrape();
  EXPECT_THAT(page, Not(HasSubstr("mail")));
  EXPECT_THAT(page, HasSubstr("bulkhead_vm_up{vm=\"other\"} 1\n"));

  vmctl_->Signal(SIGTERM);
  EXPECT_EQ(vmctl_->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl_->output(), "");
}

TEST_F(VmctlMetricsTest, AVmThatHangsIsDownAndTheOthersAreThere) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  const std::unique_ptr<ChildProcess> hung = StartVm("hung");
  const std::unique_ptr<ChildProcess> stopped = StartVm("stopped");
  Tell(*hung, "hang");
  stopped->Signal(SIGSTOP);
  Serve({"--timeout=500ms"});
  const std::string page = Scrape();
  EXPECT_THAT(ProblemsOfExposition(page), IsEmpty()) << page;
  EXPECT_THAT(page, HasSubstr("bulkhead_vm_up{vm=\"hung\"} 0\nbulkhead_vm_up{vm=\"stopped\"} 0\n"
                              "bulkhead_vm_up{vm=\"web\"} 1\n"));
  EXPECT_THAT(
      page,
      HasSubstr("bulkhead_device_accesses_total{device=\"disk0\",kind=\"read\",vm=\"web\"} "));
  EXPECT_THAT(page, Not(HasSubstr("kind=\"read\",vm=\"hung\"")));
  stopped->Signal(SIGCONT);
}

TEST_F(VmctlMetricsTest, ServesOnlyTheVmThatIsNamed) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  const std::unique_ptr<ChildProcess> mail = StartVm("mail");
  Serve({"--vm=web"});
  EXPECT_THAT(Scrape(), Not(HasSubstr("mail")));
  vmctl_->Signal(SIGINT);
  EXPECT_EQ(vmctl_->WaitForEnd(), "exit code 0");
  Serve({absl::StrCat("--socket=", SocketPath("mail"))});
  const std::string page = Scrape();
  EXPECT_THAT(page, HasSubstr("bulkhead_vm_up{vm=\"mail\"} 1\n"));
  EXPECT_THAT(page, Not(HasSubstr("web")));
}

TEST_F(VmctlMetricsTest, RequestsAreAnsweredByTheRulesOfHttp) {
  Serve();
  EXPECT_THAT(Ask(kGetMetrics), HasSubstr("\r\nContent-Type: text/plain; version=0.0.4;"));
  EXPECT_THAT(Ask("GET / HTTP/1.0\r\n\r\n"), HasSubstr("<a href=\"/metrics\">"));
  EXPECT_THAT(Ask("GET /other HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask("POST /metrics HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(Ask("nonsense\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  const std::string head = Ask("HEAD / HTTP/1.0\r\n\r\n");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(head, EndsWith("\r\n\r\n"));
  // The answer arrives although more is sent than is read.
  EXPECT_THAT(Ask(std::string(4 * kMaxHttpHeadBytes, 'x')), StartsWith("HTTP/1.1 431 "));
}

TEST_F(VmctlMetricsTest, ARequestMayComeInPieces) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  Serve();
  const UniqueFd socket = Connect();
  for (const char byte : std::string(kGetMetrics)) Send(socket, std::string(1, byte));
  EXPECT_THAT(ReadAll(socket), HasSubstr("bulkhead_vm_up{vm=\"web\"} 1\n"));
}

TEST_F(VmctlMetricsTest, ClientsThatSendNothingOrLittleAreCutOffAndKeepNobodyOut) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  Serve();
  std::vector<UniqueFd> idle;
  for (int i = 0; i < 3 * kMaxConnections; ++i) {
    idle.push_back(Connect());
    Send(idle.back(), "GET /metrics HT");
  }
  EXPECT_THAT(Scrape(), HasSubstr("bulkhead_vm_up{vm=\"web\"} 1\n"));
  for (const UniqueFd& socket : idle) EXPECT_EQ(ReadAll(socket), "");
}

TEST_F(VmctlMetricsTest, ClientsThatDoNotTakeTheirAnswerKeepNobodyOut) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  Serve();
  std::vector<UniqueFd> idle;
  for (int i = 0; i < kMaxConnections; ++i) {
    idle.push_back(Connect());
    Send(idle.back(), kGetMetrics);
  }
  EXPECT_THAT(Scrape(), HasSubstr("bulkhead_vm_up{vm=\"web\"} 1\n"));
}

TEST_F(VmctlMetricsTest, ManyRequestsAtOnceAreAllAnswered) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  Serve();
  for (int round = 0; round < 10; ++round) {
    std::vector<UniqueFd> clients;
    for (int i = 0; i < kMaxConnections / 2; ++i) {
      clients.push_back(Connect());
      Send(clients.back(), kGetMetrics);
    }
    for (const UniqueFd& client : clients) {
      EXPECT_THAT(ReadAll(client), HasSubstr("bulkhead_vm_up{vm=\"web\"} 1\n"));
    }
  }
}

// Each round connects anew, and some calls reach their time-out.
TEST_F(VmctlMetricsTest, ServesOnWhateverTheRoundsBefore) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  Serve({"--timeout=3ms"});
  constexpr int kRequests = 2000, kAtOnce = 4;
  for (int i = 0; i < kRequests; i += kAtOnce) {
    std::vector<UniqueFd> sockets;
    for (int k = 0; k < kAtOnce; ++k) sockets.push_back(Connect());
    for (const UniqueFd& socket : sockets) Send(socket, kGetMetrics);
    for (const UniqueFd& socket : sockets) {
      ASSERT_THAT(ReadAll(socket), StartsWith("HTTP/1.1 200 OK\r\n")) << i;
    }
  }
}

TEST_F(VmctlMetricsTest, WrongAddressesAndCombinationsAreRefused) {
  ExpectError({"metrics", "--listen=9707"}, 2,
              "metrics: --listen: \"9707\" is not an address; give one as 127.0.0.1:9707 or "
              "[::1]:9707");
  ExpectError(
      {"metrics", "--listen=0.0.0.0:9707"}, 2,
      "metrics: --listen: 0.0.0.0:9707 is not a loopback address: other hosts could read "
      "the metrics, without a password; give 127.0.0.1 or [::1], or --allow-remote as well");
  ExpectError({"metrics", "--listen=127.0.0.1:0", "--json"}, 2,
              "metrics: --json and --listen do not go together");
  ExpectError({"metrics", "--listen=127.0.0.1:0", "--timeout=inf"}, 2,
              "metrics: --timeout: with --listen, 1m at most");
  ExpectError({"metrics", "--allow-remote"}, 2, "metrics: --allow-remote needs --listen");
  Serve();
  ExpectError({"metrics", absl::StrCat("--listen=127.0.0.1:", ntohs(address_.sin_port))}, 1,
              absl::StrCat("cannot listen on 127.0.0.1:", ntohs(address_.sin_port),
                           ": Address already in use"));
}

}  // namespace
}  // namespace bulkhead::vmctl
