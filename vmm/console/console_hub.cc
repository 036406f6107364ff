#include "vmm/console/console_hub.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <deque>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/close_elsewhere.h"
#include "base/errno_status.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/message_socket.h"
#include "base/shared_stream.h"
#include "base/status_macros.h"
#include "base/steady_cond_var.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "vmm/console/console_exchange.h"
#include "vmm/console/standard_output.h"

namespace bulkhead::vmm {
namespace {

// How much is read ahead of a slow output: beyond it the device waits.
constexpr size_t kMaxPendingBytes = 64 * 1024;
// The share of the input in the kept bytes; the rest is for clients.
constexpr size_t kMaxKeptOfInput = DeviceStream::kMaxKeptInput / 2;
constexpr size_t kReadBytes = 4096;
// How many processes may die one after the other while the output is stuck, and how long Connect()
// then waits until the output of the oldest one is read.
constexpr size_t kMaxWaitingSockets = 16;
constexpr absl::Duration kConnectTimeout = absl::Seconds(1);
// A device whose sockets cannot be closed gets no further ones beyond these.
constexpr size_t kMaxPendingCloses = 4;
constexpr uint32_t kReadable = EPOLLIN;
constexpr uint32_t kWritable = EPOLLOUT;
constexpr absl::Duration kLastOutputTimeout = absl::Milliseconds(200);
// A guest prints byte by byte. After the first byte the hub waits for this long, so that it does
// not wake up for each one: that would cost more than all else.
constexpr int kGatherMs = 1;

// Receives several packets at once.
class PacketBatch {
 public:
  // Returns the number of packets, without waiting. At the end of the stream all are empty.
  // `is_foul`: the next one carries descriptors, and stays in the socket.
  int Receive(int socket, bool& is_foul) {
    is_foul = false;
    int count = 0;
    while (count < kPackets) {
      std::array<char, DeviceStream::kMaxPacketBytes + 1>& bytes = bytes_[count];
      const ssize_t size = ReceivePlainPacket(socket, absl::MakeSpan(bytes));
      if (size >= 0) {
        sizes_[count++] = std::min(static_cast<size_t>(size), bytes.size());
      } else if (errno != ECONNRESET && errno != EINTR) {
        // ECONNRESET: a process has died with unread input. It comes once, before the packets that
        // the process has sent.
        is_foul = errno == EBADMSG;
        break;
      }
    }
    return count;
  }
  // A longer packet is cut to kMaxPacketBytes + 1.
  absl::string_view packet(int i) const { return {bytes_[i].data(), sizes_[i]}; }

  static constexpr int kPackets = 16;

 private:
  std::array<std::array<char, DeviceStream::kMaxPacketBytes + 1>, kPackets> bytes_;
  std::array<size_t, kPackets> sizes_ = {};
};

bool IsHungUp(int socket) {
  pollfd entry = {.fd = socket, .events = POLLRDHUP, .revents = 0};
  return poll(&entry, 1, 0) == 1 && (entry.revents & (POLLHUP | POLLRDHUP)) != 0;
}

class Hub final : public ConsoleHub {
 public:
  Hub(UniqueFd epoll, EventFd wake, std::string device_name, std::optional<SharedStream> input,
      std::optional<StandardOutput> output)
      : epoll_(std::move(epoll)),
        exchange_(std::make_shared<ConsoleExchange>(std::move(wake), std::move(device_name))),
        input_(std::move(input)),
        output_(std::move(output)) {}
  ~Hub() override;

  absl::Status Start();

  int Connect() override;
  void Drain(absl::Duration limit) override;
  std::unique_ptr<Client> Attach(std::function<void()> on_change) override {
    return exchange_->Attach(std::move(on_change));
  }

 private:
  // The events that epoll watches a descriptor for. An event carries the address of this.
  struct Watched {
    uint32_t wanted = 0;
    uint32_t ready = 0;  // as of this turn
  };

  // The hub's thread. Each turn does all that can be done without waiting.
  void Run();
  // Waits for the next turn. False: the hub ends.
  bool AwaitTurn();
  bool HasNextSocket();
  // True: the socket was empty at some moment of this call, or is closed.
  bool ReadDevice();
  void TakeNextSocket();
  void CloseSocket();
  void WriteOutput();
  void ReadInput();
  void SendInput();
  void FinishDrains();
  void UpdateWatches();
  // False: the descriptor cannot be watched (errno).
  bool Watch(int fd, Watched& watched, uint32_t wanted);
  void EndInput();
  size_t InputRoom();

  const UniqueFd epoll_;
  const std::shared_ptr<ConsoleExchange> exchange_;

  const std::shared_ptr<PendingCloses> closes_ = std::make_shared<PendingCloses>();

  absl::Mutex mutex_;
  SteadyCondVar changed_;                        // Connect() and Drain() wait for it
  UniqueFd device_end_ ABSL_GUARDED_BY(mutex_);  // of the newest socket
  std::deque<UniqueFd> next_sockets_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t drains_wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t drains_done_ ABSL_GUARDED_BY(mutex_) = 0;

  // Only the hub's thread uses these:
  uint64_t drains_seen_ = 0;  // of drains_wanted_
  bool draining_ = false;
  bool look_at_device_ = false;  // there may be packets, or the next socket
  bool is_gathering_ = false;    // the socket is not watched, but looked at in a moment
  // Not ok(): there is none yet, or the device has shut it down. It may hold descriptors that a
  // device has sent: its close may block.
  UniqueFd socket_;
  bool socket_is_full_ = false;        // for input
  std::optional<SharedStream> input_;  // none, or it has ended
  bool input_can_wait_ = true;         // else it is a file
  std::optional<StandardOutput> output_;
  std::string pending_;  // for output_
  Watched wake_watched_;
  Watched socket_watched_;
  Watched input_watched_;
  Watched output_watched_;
  PacketBatch batch_;

  std::thread thread_;
};

Hub::~Hub() {
  if (!thread_.joinable()) return;
  Drain(kLastOutputTimeout);
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  exchange_->wake().Signal();
  thread_.join();
  exchange_->Close();
  CloseElsewhere(std::move(socket_), closes_);
  absl::MutexLock lock(&mutex_);
  for (UniqueFd& socket : next_sockets_) CloseElsewhere(std::move(socket), closes_);
}

absl::Status Hub::Start() {
  if (!Watch(exchange_->wake().fd(), wake_watched_, kReadable)) {
    return ErrnoToStatus(errno, "epoll_ctl");
  }
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

int Hub::Connect() {
  if (!closes_->WaitForFewerThan(kMaxPendingCloses, kConnectTimeout)) {
    LogError(absl::StrCat("console: ", kMaxPendingCloses,
                          " sockets of its earlier processes cannot ",
                          "be closed, because of descriptors that these have sent"));
    return -1;
  }
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> sockets = CreateSocketPair(SOCK_SEQPACKET);
  if (!sockets.ok()) {
    LogError(absl::StrCat("console: ", sockets.status().message()));
    return -1;
  }
  RefuseDescriptors(sockets->first.get());
  const absl::Time deadline = SteadyNow() + kConnectTimeout;
  absl::MutexLock lock(&mutex_);
  while (next_sockets_.size() >= kMaxWaitingSockets && changed_.WaitUntil(&mutex_, deadline)) {
  }
  if (next_sockets_.size() >= kMaxWaitingSockets) {
    LogWarning(
        "console output is lost: the device's process ended too often while the output was stuck");
    CloseElsewhere(std::move(next_sockets_.front()), closes_);
    next_sockets_.pop_front();
  }
  next_sockets_.push_back(std::move(sockets->first));
  device_end_ = std::move(sockets->second);
  exchange_->wake().Signal();
  return device_end_.get();
}

void Hub::Drain(absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  absl::MutexLock lock(&mutex_);
  const uint64_t mine = ++drains_wanted_;
  exchange_->wake().Signal();
  while (drains_done_ < mine && changed_.WaitUntil(&mutex_, deadline)) {
  }
}

void Hub::Run() {
  while (AwaitTurn()) {
    // Before the look at the socket: a process whose successor has a socket is dead, so all that it
    // has sent is there now.
    const bool has_next = HasNextSocket();
    const bool is_empty = ReadDevice();
    WriteOutput();
    if (is_empty && has_next) TakeNextSocket();
    if (is_empty && !has_next && pending_.empty()) FinishDrains();
    ReadInput();
    SendInput();
    exchange_->CallChanged();
    UpdateWatches();
  }
}

bool Hub::AwaitTurn() {
  for (Watched* watched : {&wake_watched_, &socket_watched_, &input_watched_, &output_watched_}) {
    watched->ready = 0;
  }
  const bool input_is_ready = input_.has_value() && !input_can_wait_ && InputRoom() != 0;
  const bool is_busy = input_is_ready || (look_at_device_ && pending_.size() < kMaxPendingBytes);
  std::array<epoll_event, 4> events;
  // If there is no limit, a wake-up ends the wait.
  const int limit_ms = is_busy ? 0 : is_gathering_ ? kGatherMs : -1;
  const int n = epoll_wait(epoll_.get(), events.data(), events.size(), limit_ms);
  for (int i = 0; i < n; ++i) static_cast<Watched*>(events[i].data.ptr)->ready = events[i].events;
  const bool has_gathered = is_gathering_ && n == 0;
  if ((socket_watched_.ready & ~kWritable) != 0 || has_gathered || draining_)
    look_at_device_ = true;
  if ((socket_watched_.ready & kWritable) != 0) socket_is_full_ = false;
  if (wake_watched_.ready == 0) return true;

  exchange_->wake().Drain();
  look_at_device_ = true;
  absl::MutexLock lock(&mutex_);
  drains_seen_ = drains_wanted_;
  draining_ = drains_seen_ != drains_done_;
  return !stopping_;
}

bool Hub::ReadDevice() {
  is_gathering_ = false;
  if (!socket_.ok()) look_at_device_ = false;
  if (!look_at_device_) return !socket_.ok();
  if (pending_.size() >= kMaxPendingBytes) return false;
  bool is_foul = false;
  const int count = batch_.Receive(socket_.get(), is_foul);
  look_at_device_ = count == PacketBatch::kPackets;  // there may be more
  is_gathering_ = count != 0;
  // An empty packet is the end, or one that the device sent. A hang-up alone may be newer than the
  // packets just read. Both together: all is read.
  bool has_end = false;
  for (int i = 0; i < count; ++i) {
    has_end |= batch_.packet(i).empty();
    if (!batch_.packet(i).empty()) exchange_->Receive(batch_.packet(i), pending_);
  }
  if (!output_.has_value()) pending_.clear();
  if (is_foul) {
    LogWarning("a console device has sent descriptors: its stream is closed");
    CloseSocket();
  } else if (has_end && IsHungUp(socket_.get())) {
    CloseSocket();
    absl::MutexLock lock(&mutex_);
    // The newest one's other end is held here as well: it does not end with a process.
    if (next_sockets_.empty()) LogWarning("a console device has shut its stream down");
  }
  return count < PacketBatch::kPackets || !socket_.ok();
}

void Hub::CloseSocket() {
  if (!socket_.ok()) return;
  Watch(socket_.get(), socket_watched_, 0);
  CloseElsewhere(std::move(socket_), closes_);
}

bool Hub::HasNextSocket() {
  absl::MutexLock lock(&mutex_);
  return !next_sockets_.empty();
}

void Hub::TakeNextSocket() {
  UniqueFd next;
  {
    absl::MutexLock lock(&mutex_);
    if (next_sockets_.empty()) return;  // Connect() has dropped it
    next = std::move(next_sockets_.front());
    next_sockets_.pop_front();
    changed_.SignalAll();
  }
  CloseSocket();
  socket_ = std::move(next);
  socket_is_full_ = false;
  exchange_->WithStream([](DeviceStream& stream) { stream.Connect(); });
  look_at_device_ = true;
}

void Hub::WriteOutput() {
  if (pending_.empty()) return;
  pending_.erase(0, output_->Write(pending_));
}

size_t Hub::InputRoom() {
  if (!socket_.ok()) return 0;  // not needed yet: leave it for the program after this one
  const size_t kept =
      exchange_->WithStream([](const DeviceStream& stream) { return stream.kept_input(); });
  return kMaxKeptOfInput - std::min(kMaxKeptOfInput, kept);
}

void Hub::ReadInput() {
  if (!input_.has_value() || (input_can_wait_ && input_watched_.ready == 0)) return;
  std::array<char, kReadBytes> bytes;
  const size_t room = std::min(bytes.size(), InputRoom());
  if (room == 0) return;
  const ssize_t count = input_->Read(bytes.data(), room);
  if (count > 0) {
    exchange_->WithStream([&](DeviceStream& stream) {
      return stream.AddInput({bytes.data(), static_cast<size_t>(count)});
    });
  } else if (count == 0) {
    EndInput();
  } else if (errno != EAGAIN && errno != EINTR) {
    LogWarning(absl::StrCat("no more console input: ", strerror(errno)));
    EndInput();
  }
}

void Hub::EndInput() {
  if (input_can_wait_) Watch(input_->fd(), input_watched_, 0);
  input_.reset();
}

void Hub::SendInput() {
  std::string packet;
  while (socket_.ok() && !socket_is_full_ &&
         exchange_->WithStream([&](DeviceStream& stream) { return stream.NextPacket(packet); })) {
    if (send(socket_.get(), packet.data(), packet.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
      if (errno == EINTR) continue;
      // Or it is shut down, which the next ReadDevice() finds.
      socket_is_full_ = errno == EAGAIN || errno == ENOBUFS;
      return;
    }
    exchange_->WithStream([&](DeviceStream& stream) { stream.PacketSent(packet); });
  }
}

void Hub::FinishDrains() {
  absl::MutexLock lock(&mutex_);
  drains_done_ = drains_seen_;
  changed_.SignalAll();
  draining_ = false;
}

void Hub::UpdateWatches() {
  if (socket_.ok()) {
    const uint32_t wanted = (pending_.size() < kMaxPendingBytes && !is_gathering_ ? kReadable : 0) |
                            (socket_is_full_ ? kWritable : 0);
    if (!Watch(socket_.get(), socket_watched_, wanted)) CloseElsewhere(std::move(socket_), closes_);
  }
  if (output_.has_value() &&
      !Watch(output_->fd(), output_watched_, pending_.empty() ? 0 : kWritable)) {
    LogError(absl::StrCat("no more console output: ", strerror(errno)));
    output_.reset();
    pending_.clear();
  }
  if (input_.has_value() && input_can_wait_ &&
      !Watch(input_->fd(), input_watched_, InputRoom() == 0 ? 0 : kReadable)) {
    input_can_wait_ = false;  // EPERM: epoll has no use for it, it never blocks
  }
}

bool Hub::Watch(int fd, Watched& watched, uint32_t wanted) {
  if (wanted == watched.wanted) return true;
  // Not watched while no event is wanted: epoll would still report errors and hang-ups.
  const int operation = watched.wanted == 0 ? EPOLL_CTL_ADD
                        : wanted == 0       ? EPOLL_CTL_DEL
                                            : EPOLL_CTL_MOD;
  epoll_event event = {};
  event.events = wanted;
  event.data.ptr = &watched;
  if (epoll_ctl(epoll_.get(), operation, fd, &event) != 0) return false;
  watched.wanted = wanted;
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ConsoleHub>> ConsoleHub::Create(const Streams& streams) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return ErrnoToStatus(errno, "epoll_create1");
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  std::optional<SharedStream> input;
  if (streams.input_fd >= 0) {
    ASSIGN_OR_RETURN(input, SharedStream::Create(streams.input_fd, O_RDONLY));
  }
  std::optional<StandardOutput> output;
  if (streams.output_fd >= 0) {
    ASSIGN_OR_RETURN(SharedStream stream, SharedStream::Create(streams.output_fd, O_WRONLY));
    output.emplace(std::move(stream), streams.max_file_bytes);
  }
  auto hub = std::make_unique<Hub>(std::move(epoll), std::move(wake), streams.device_name,
                                   std::move(input), std::move(output));
  RETURN_IF_ERROR(hub->Start());
  return hub;
}

}  // namespace bulkhead::vmm
