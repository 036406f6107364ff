#include "tools/vmctl/metrics_server.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "tools/vmctl/metrics_page.h"
#include "tools/vmctl/prometheus.h"
#include "tools/vmctl/vm_client.h"

namespace bulkhead::vmctl {
namespace {

// How long a client may take in all, whether it sends a byte now and then or none.
constexpr absl::Duration kReadTime = absl::Seconds(5);
constexpr absl::Duration kWriteTime = absl::Seconds(30);
constexpr absl::Duration kDrainTime = absl::Seconds(1);
constexpr absl::Duration kAfterShortage = absl::Milliseconds(100);

constexpr char kPrometheusType[] = "text/plain; version=0.0.4; charset=utf-8";
constexpr char kHtmlType[] = "text/html; charset=utf-8";
constexpr char kFrontPage[] =
    "<!DOCTYPE html>\n<title>Bulkhead</title>\n<p>The metrics of the virtual machines that run "
    "here: "
    "<a href=\"/metrics\">/metrics</a>\n";

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Create(
    UniqueFd listening, std::function<std::vector<VmAddress>()> find, absl::Duration timeout) {
  ASSIGN_OR_RETURN(EventFd finished, EventFd::Create());
  std::unique_ptr<MetricsServer> server(
      new MetricsServer(std::move(listening), std::move(finished), std::move(find), timeout));
  const int error = StartDetachedThread(
      "vm-answers", [answers = server->answers_] { VmClient::ServeAnswers(*answers); });
  if (error != 0) return ErrnoToStatus(error, "a thread for the VMs' answers");
  return server;
}

MetricsServer::MetricsServer(UniqueFd listening, EventFd finished,
                             std::function<std::vector<VmAddress>()> find, absl::Duration timeout)
    : listening_(std::move(listening)),
      finished_(std::move(finished)),
      find_(std::move(find)),
      timeout_(timeout),
      answers_(std::make_shared<grpc::CompletionQueue>()) {}

MetricsServer::~MetricsServer() {
  round_.reset();
  answers_->Shutdown();
}

void MetricsServer::Run(int end) {
  while (true) {
    const absl::Time now = SteadyNow();
    CutOff(now);
    absl::Time next = absl::InfiniteFuture();
    if (now < accept_again_) next = accept_again_;
    const bool accepts = now >= accept_again_ && (HasRoom() || Evictable() != nullptr);
    std::vector<pollfd> polled = {
        {.fd = end, .events = POLLIN, .revents = 0},
        {.fd = finished_.fd(), .events = POLLIN, .revents = 0},
        {.fd = accepts ? listening_.get() : -1, .events = POLLIN, .revents = 0}};
    const size_t first = polled.size();
    for (const Connection& connection : connections_) {
      next = std::min(next, connection.deadline);
      using State = Connection::State;
      const bool reads =
          connection.state == State::kReading || connection.state == State::kDraining;
      const bool writes = connection.state == State::kWriting;
      polled.push_back({.fd = reads || writes ? connection.socket.get() : -1,
                        .events = static_cast<short>(writes ? POLLOUT : POLLIN),
                        .revents = 0});
    }
    const timespec limit = absl::ToTimespec(std::max(next - now, absl::ZeroDuration()));
    const bool unlimited = next == absl::InfiniteFuture();
    if (ppoll(polled.data(), polled.size(), unlimited ? nullptr : &limit, nullptr) < 0) continue;
    if (polled[0].revents != 0) return;
    size_t place = first;
    for (Connection& connection : connections_) {
      const short events = polled[place++].revents;
      if (events != 0) Serve(connection, events);
    }
    if (polled[1].revents != 0) EndRound();
    if (polled[2].revents != 0) Accept();
    BeginRound();
    connections_.remove_if([](const Connection& each) { return !each.socket.ok(); });
  }
}

void MetricsServer::Accept() {
  // Bounded: others want to be served, too.
  for (int i = 0; i < kBacklog; ++i) {
    Connection* const evicted = HasRoom() ? nullptr : Evictable();
    if (evicted == nullptr && !HasRoom()) return;
    UniqueFd socket(accept4(listening_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.ok()) {
      const bool is_shortage =
          errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
      if (is_shortage) accept_again_ = SteadyNow() + kAfterShortage;
      return;
    }
    if (evicted != nullptr) evicted->socket.reset();
    Connection& connection = connections_.emplace_back();
    connection.socket = std::move(socket);
    connection.deadline = SteadyNow() + kReadTime;
  }
}

bool MetricsServer::HasRoom() const {
  const auto is_open = [](const Connection& each) { return each.socket.ok(); };
  const auto open = std::count_if(connections_.begin(), connections_.end(), is_open);
  return static_cast<size_t>(open) < kMaxConnections;
}

// Null: all connections wait for VMs, which does not last.
MetricsServer::Connection* MetricsServer::Evictable() {
  using State = Connection::State;
  for (const State state : {State::kReading, State::kDraining, State::kWriting}) {
    for (Connection& connection : connections_) {
      if (connection.socket.ok() && connection.state == state) return &connection;
    }
  }
  return nullptr;
}

void MetricsServer::Serve(Connection& connection, short events) {
  if ((events & (POLLERR | POLLNVAL)) != 0) return connection.socket.reset();
  switch (connection.state) {
    case Connection::State::kReading:
      return Read(connection);
    case Connection::State::kWriting:
      return Write(connection);
    case Connection::State::kDraining:
      return Drain(connection);
    case Connection::State::kQueued:
    case Connection::State::kInRound:
      return;
  }
}

void MetricsServer::Read(Connection& connection) {
  char piece[kMaxHttpHeadBytes + 1];
  const ssize_t count = recv(connection.socket.get(), piece, sizeof(piece), 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return connection.socket.reset();
  connection.input.append(piece, static_cast<size_t>(count));
  const std::optional<HttpRequest> request = ParseHttpRequest(connection.input);
  if (!request.has_value()) return;
  connection.input = std::string();
  Answer(connection, *request);
}

void MetricsServer::Answer(Connection& connection, const HttpRequest& request) {
  connection.is_head = request.is_head;
  if (request.error != 0) {
    const std::string answer = HttpErrorResponse(request.error, false);
    return Send(connection, std::make_shared<const std::string>(answer));
  }
  if (request.path == "/metrics") {
    connection.state = Connection::State::kQueued;
    connection.deadline =
        absl::InfiniteFuture();  // rounds end by themselves; it waits for two at most
    return;
  }
  const std::string answer = request.path == "/"
                                 ? HttpResponse(200, kHtmlType, kFrontPage, request.is_head)
                                 : HttpErrorResponse(404, request.is_head);
  Send(connection, std::make_shared<const std::string>(answer));
}

void MetricsServer::Send(Connection& connection, std::shared_ptr<const std::string> output) {
  connection.state = Connection::State::kWriting;
  connection.deadline = SteadyNow() + kWriteTime;
  connection.output = std::move(output);
  Write(connection);
}

void MetricsServer::Write(Connection& connection) {
  const absl::string_view rest = absl::string_view(*connection.output).substr(connection.written);
  const ssize_t count = send(connection.socket.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count < 0) return connection.socket.reset();
  connection.written += static_cast<size_t>(count);
  if (connection.written < connection.output->size()) return;
  connection.output.reset();
  connection.state = Connection::State::kDraining;
  connection.deadline = SteadyNow() + kDrainTime;
  if (shutdown(connection.socket.get(), SHUT_WR) != 0) connection.socket.reset();
}

void MetricsServer::Drain(Connection& connection) {
  char piece[kMaxHttpHeadBytes];
  const ssize_t count = recv(connection.socket.get(), piece, sizeof(piece), 0);
  if (count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR))) return;
  connection.socket.reset();
}

void MetricsServer::BeginRound() {
  if (round_ != nullptr) return;
  bool is_wanted = false;
  for (Connection& connection : connections_) {
    if (connection.state != Connection::State::kQueued) continue;
    connection.state = Connection::State::kInRound;
    is_wanted = true;
  }
  if (is_wanted) round_ = std::make_unique<MetricsRound>(find_(), timeout_, *answers_, finished_);
}

void MetricsServer::EndRound() {
  finished_.Drain();
  if (round_ == nullptr || !round_->is_finished()) return;
  const std::string page = PrometheusText(MergeMetrics(round_->TakeAnswers()));
  round_.reset();
  // One text for all, however slowly each takes it.
  const auto get =
      std::make_shared<const std::string>(HttpResponse(200, kPrometheusType, page, false));
  const auto head =
      std::make_shared<const std::string>(HttpResponse(200, kPrometheusType, page, true));
  for (Connection& connection : connections_) {
    if (connection.state != Connection::State::kInRound) continue;
    Send(connection, connection.is_head ? head : get);
  }
}

void MetricsServer::CutOff(absl::Time now) {
  connections_.remove_if([now](const Connection& each) { return now >= each.deadline; });
}

}  // namespace bulkhead::vmctl
