#ifndef BULKHEAD_TOOLS_VMCTL_METRICS_SERVER_H_
#define BULKHEAD_TOOLS_VMCTL_METRICS_SERVER_H_

#include <stddef.h>

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/unique_fd.h"
#include "grpcpp/completion_queue.h"
#include "tools/vmctl/discovery.h"
#include "tools/vmctl/http_request.h"
#include "tools/vmctl/metrics_round.h"

namespace bulkhead::vmctl {

// Serves the metrics of VMs over HTTP, on the thread that calls Run(). Clients are not trusted:
//   - a connection has one request, whose head is at most kMaxHttpHeadBytes long
//   - a client that takes too long to send it, or to take its answer, is cut off
//   - of more than kMaxConnections the oldest is cut off: of those that send their request, else of
//     those that take their answer. While all wait for VMs, more wait in the socket's backlog
// Requests that come while VMs are being asked get the answer of the next round, so that no two
// rounds run at the same time. Thread-compatible.
class MetricsServer {
 public:
  static constexpr size_t kMaxConnections = 32;
  static constexpr int kBacklog = 64;

  // `listening`: a listening socket, non-blocking. `find`: the VMs that run now. `timeout`: how
  // long each of them may take. Errors: as eventfd(2) and pthread_create(3).
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Create(
      UniqueFd listening, std::function<std::vector<VmAddress>()> find, absl::Duration timeout);

  ~MetricsServer();

  // Serves until `end`, a descriptor, can be read.
  void Run(int end);

 private:
  struct Connection {
    enum class State {
      kReading,   // the request
      kQueued,    // for a round that has not begun
      kInRound,   // of VMs that are asked
      kWriting,   // the answer
      kDraining,  // what the client still sends, so that closing does not take the answer from it
    };
    UniqueFd socket;
    State state = State::kReading;
    absl::Time deadline;  // of this state
    std::string input;
    bool is_head = false;
    std::shared_ptr<const std::string> output;
    size_t written = 0;
  };

  MetricsServer(UniqueFd listening, EventFd finished, std::function<std::vector<VmAddress>()> find,
                absl::Duration timeout);

  void Accept();
  bool HasRoom() const;
  Connection* Evictable();
  void Serve(Connection& connection, short events);
  void Read(Connection& connection);
  void Answer(Connection& connection, const HttpRequest& request);
  void Send(Connection& connection, std::shared_ptr<const std::string> output);
  void Write(Connection& connection);
  void Drain(Connection& connection);
  void BeginRound();
  void EndRound();
  void CutOff(absl::Time now);

  const UniqueFd listening_;
  const EventFd finished_;  // of `round_`
  const std::function<std::vector<VmAddress>()> find_;
  const absl::Duration timeout_;
  std::list<Connection> connections_;  // oldest first; one without a socket is about to go
  absl::Time accept_again_;            // after a shortage of the host
  const std::shared_ptr<grpc::CompletionQueue> answers_;  // with the thread that serves it
  std::unique_ptr<MetricsRound> round_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_METRICS_SERVER_H_
