#include "vmm/console_log/console_log.h"

#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>

#include <algorithm>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "vmm/console_log/console_log_process.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kChunkBytes = 1 << 16;

}  // namespace

absl::StatusOr<std::unique_ptr<ConsoleLog>> ConsoleLog::Create(
    const ConsoleLogFile& file, bool confined, std::vector<SideProcess>& processes) {
  ASSIGN_OR_RETURN(auto sockets, CreateSocketPair(SOCK_STREAM));
  auto theirs = std::make_shared<const UniqueFd>(std::move(sockets.second));
  SideProcess process = {.name = "vmm-console-log",
                         .run = [file, theirs, confined](const SideProcessStart&) {
                           RunConsoleLog(file, theirs->get(), confined);
                         }};
  process.descriptors = {theirs, file.folder};
  processes.push_back(std::move(process));
  return absl::WrapUnique(new ConsoleLog(std::move(sockets.first)));
}

void ConsoleLog::Attach(ConsoleHub& hub) {
  std::unique_ptr<ConsoleHub::Client> client = hub.Attach([this] { Move(); });
  {
    absl::MutexLock lock(&mutex_);
    client_ = std::move(client);
  }
  Move();
}

void ConsoleLog::Move() {
  absl::MutexLock lock(&mutex_);
  if (client_ == nullptr || finished_) return;
  std::string output;
  uint64_t lost = 0;
  while (client_->Take(kChunkBytes, output, lost)) {
    lost_ += lost;
    Send(output);
  }
}

void ConsoleLog::Send(absl::string_view bytes) {
  if (lost_ != 0) {
    const std::string note = MissingBytes(lost_);
    if (send(socket_.get(), note.data(), note.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) lost_ = 0;
  }
  // Nothing behind a gap that could not be told of.
  while (lost_ == 0 && !bytes.empty()) {
    const ssize_t sent =
        send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) break;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  lost_ += bytes.size();
}

void ConsoleLog::Finish(absl::Duration limit) {
  Move();
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(finished_, true)) return;
  }
  shutdown(socket_.get(), SHUT_WR);
  pollfd answer = {.fd = socket_.get(), .events = POLLIN, .revents = 0};
  const absl::Time deadline = SteadyNow() + limit;
  int ready = 0;
  do {
    const absl::Duration left = std::max(deadline - SteadyNow(), absl::ZeroDuration());
    ready = poll(&answer, 1, static_cast<int>(absl::ToInt64Milliseconds(left)));
  } while (ready < 0 && SteadyNow() < deadline);
  if (ready == 0)
    LogWarning("the console's log is not written to its end: its disk takes too long");
}

}  // namespace bulkhead::vmm
