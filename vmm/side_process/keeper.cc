#include "vmm/side_process/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/end_with_parent.h"
#include "base/message_socket.h"
#include "base/receive_packet.h"
#include "base/send_packet.h"
#include "base/unique_fd.h"
#include "vmm/side_process/side_log.h"

namespace bulkhead::vmm {
namespace {

constexpr int64_t kFirstPauseMs = 100;
constexpr int64_t kLongestPauseMs = 10'000;
constexpr int64_t kLivesMs = 10'000;

// One side process after the other.
class Kept {
 public:
  Kept(const SideProcess& what, int self) : what_(what), self_(self) {}

  // Readable when there is something to do; -1: never.
  int clients() const { return takes_clients_ ? what_.clients.get() : -1; }
  int process() const { return process_.get(); }
  // When it is to be started; -1: not yet, or not at all.
  int64_t due_ms() const { return due_ms_; }

  void StartIfDue() {
    if (due_ms_ < 0 || NowMs() < due_ms_) return;
    due_ms_ = -1;
    started_ms_ = NowMs();
    auto sockets = CreateSocketPair(SOCK_SEQPACKET);
    if (!sockets.ok()) return StartAgain("cannot be started: no sockets");
    pid_ = fork();
    if (pid_ == 0) {
      EndWithParent(self_);
      what_.run({.parent = self_, .clients = sockets->second.get(), .earlier_clients = Clients()});
      _exit(1);
    }
    if (pid_ < 0) return StartAgain(absl::StrCat("cannot be started: fork: ", strerror(errno)));
    to_process_ = std::move(sockets->first);
    process_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    if (!process_.ok()) {
      kill(pid_, SIGKILL);
      OnEnd();
    }
  }

  void OnClients() {
    uint32_t index = 0;
    int socket = -1;
    const ssize_t size = ReceivePacket(what_.clients.get(), &index, sizeof(index), &socket);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
      takes_clients_ = false;
      return;
    }
    UniqueFd client(socket);
    if (size != sizeof(index) || index >= kMaxSideClients || !client.ok()) return;
    if (index >= clients_.size()) clients_.resize(index + 1);
    clients_[index] = std::move(client);
    // If the process is dead, its successor finds the socket.
    if (pid_ > 0) SendPacket(to_process_.get(), &index, sizeof(index), socket, MSG_DONTWAIT);
  }

  void OnEnd() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    process_.reset();
    to_process_.reset();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    StartAgain(HowItEnded(status));
  }

 private:
  void StartAgain(const std::string& why) {
    if (NowMs() - started_ms_ >= kLivesMs) pause_ms_ = kFirstPauseMs;
    WriteLogLine(absl::StrCat("warning: the process ", what_.name, " ", why,
                              "; it is started again in ", pause_ms_, " ms"));
    due_ms_ = NowMs() + pause_ms_;
    pause_ms_ = std::min(2 * pause_ms_, kLongestPauseMs);
  }

  std::vector<int> Clients() const {
    std::vector<int> clients;
    for (const UniqueFd& client : clients_) clients.push_back(client.get());
    return clients;
  }

  const SideProcess& what_;
  const int self_;
  bool takes_clients_ = true;
  std::vector<UniqueFd> clients_;
  pid_t pid_ = -1;
  UniqueFd process_;
  UniqueFd to_process_;
  int64_t started_ms_ = 0;
  int64_t due_ms_ = 0;
  int64_t pause_ms_ = kFirstPauseMs;
};

// Closes all but standard error and what the side processes use: locks of disks, and other ends of
// others' sockets, are the vmm's.
bool KeepDescriptors(const std::vector<SideProcess>& processes) {
  std::vector<unsigned> kept;
  for (const SideProcess& process : processes) {
    if (process.clients.ok()) kept.push_back(static_cast<unsigned>(process.clients.get()));
    for (const auto& fd : process.descriptors) kept.push_back(static_cast<unsigned>(fd->get()));
  }
  std::sort(kept.begin(), kept.end());
  unsigned next = STDERR_FILENO + 1;
  for (const unsigned fd : kept) {
    if (fd > next && close_range(next, fd - 1, 0) != 0) return false;
    next = std::max(next, fd + 1);
  }
  if (close_range(next, ~0u, 0) != 0) return false;
  // Standard input and output may be the guest's console.
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  return null.ok() && dup2(null.get(), STDIN_FILENO) >= 0 &&
         dup2(STDERR_FILENO, STDOUT_FILENO) >= 0;
}

}  // namespace

void KeepSideProcesses(int parent, const std::vector<SideProcess>& processes) {
  EndWithParent(parent);
  prctl(PR_SET_NAME, "vmm-keeper");
  setsid();  // the terminal's signals are for the vmm
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGCHLD, SIG_DFL);
  if (!KeepDescriptors(processes)) _exit(1);
  const UniqueFd self = OwnPidFd();
  if (!self.ok()) _exit(1);
  std::vector<std::unique_ptr<Kept>> kept;
  for (const SideProcess& process : processes) {
    kept.push_back(std::make_unique<Kept>(process, self.get()));
  }
  while (true) {
    int64_t due_ms = -1;
    std::vector<pollfd> ready;
    for (const auto& each : kept) {
      each->StartIfDue();
      if (each->due_ms() >= 0) {
        due_ms = due_ms < 0 ? each->due_ms() : std::min(due_ms, each->due_ms());
      }
      ready.push_back({.fd = each->clients(), .events = POLLIN, .revents = 0});
      ready.push_back({.fd = each->process(), .events = POLLIN, .revents = 0});
    }
    const int64_t wait_ms = due_ms < 0 ? -1 : std::max<int64_t>(due_ms - NowMs(), 0);
    if (poll(ready.data(), ready.size(), static_cast<int>(wait_ms)) <= 0) continue;
    for (size_t i = 0; i < kept.size(); ++i) {
      if (ready[2 * i].revents != 0) kept[i]->OnClients();
      if (ready[2 * i + 1].revents != 0) kept[i]->OnEnd();
    }
  }
}

}  // namespace bulkhead::vmm
