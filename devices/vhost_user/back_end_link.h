#ifndef BULKHEAD_DEVICES_VHOST_USER_BACK_END_LINK_H_
#define BULKHEAD_DEVICES_VHOST_USER_BACK_END_LINK_H_

#include <stdint.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "devices/vhost_user/session.h"
#include "devices/vhost_user/timer.h"
#include "proto/back_end_peer.h"
#include "proto/back_end_socket.h"

namespace bulkhead::devices::vhost_user {

// Which process a back end is; two of them never have the same.
struct PeerIdentity {
  uint64_t pid = 0;
  uint64_t inode = 0;
  bool operator==(const PeerIdentity&) const = default;
};

// The connection to the back end: made by the vmm's connector (proto/back_end_socket.h), and made
// again, without limit, whenever it is lost. Each connection has a Session. No reply of the back
// end is waited for without a limit: then the connection counts as lost.
class BackEndLink {
 public:
  class Owner {
   public:
    virtual ~Owner() = default;
    // session() is greeted.
    virtual void OnGreeted() = 0;
    // There is no session any more. `ended`: the back end's end has been closed, which is the end
    // of its process, or its own decision; else this side has closed the connection.
    virtual void OnLost(bool ended) = 0;
    // No process listens at that path.
    virtual void OnNobodyListens() = 0;
    // About the process that Start() was given: a pidfd of it. Empty: it is dead.
    virtual void OnPeerFound(UniqueFd process) = 0;
  };

  // `owner` outlives this.
  BackEndLink(const Session::Wanted& wanted, Owner* owner) : wanted_(wanted), owner_(owner) {}
  ~BackEndLink();

  // Takes the resource, and begins to connect. Asks first for the process `earlier`, if it is one
  // of which the kernel can tell whether it lives. Errors: NotFound, or as timerfd_create(2).
  absl::Status Start(DeviceServices& services, absl::string_view resource,
                     const PeerIdentity& earlier);
  // Works on the connection until there is a greeted session. False: after `limit` there is none;
  // obstacle() says why. Without the event loop.
  bool AwaitGreeting(absl::Duration limit);

  // Null unless the back end has answered all questions.
  Session* session() {
    return session_ != nullptr && session_->is_greeted() ? session_.get() : nullptr;
  }
  // Sends what the session has to say. Call it after each use of the session. Does not call back.
  void Flush();
  // This back end will not do: closes the connection, soon, and makes another one.
  void Refuse(absl::string_view why);

  const PeerIdentity& peer() const { return peer_; }
  // A pidfd of the back end; once a connection, in OnLost() at the latest. Empty: the kernel does
  // not tell who it is.
  UniqueFd TakePeerProcess() { return std::move(peer_process_); }
  const std::string& obstacle() const { return obstacle_; }
  uint64_t connections() const { return connections_; }
  uint64_t losses() const { return losses_; }

 private:
  void RequestConnection();
  void RequestPeer();
  void OnConnector();
  void OnConnection(const ConnectAnswer& answer, std::vector<UniqueFd> descriptors);
  void OnPeerAnswer(const PeerAnswer& answer, std::vector<UniqueFd> descriptors);
  void OnSocket();
  void Lose(const std::string& why, bool ended);
  void SetReplyLimit();

  const Session::Wanted wanted_;
  Owner* const owner_;
  DeviceServices* services_ = nullptr;
  UniqueFd connector_;
  UniqueFd socket_;
  PeerIdentity peer_;
  UniqueFd peer_process_;
  PeerIdentity listener_;  // of the connection to come
  UniqueFd listener_process_;
  std::optional<PeerRequest> peer_request_;  // not answered yet
  std::unique_ptr<Session> session_;
  Timer reply_limit_;
  uint64_t messages_at_limit_ = 0;
  bool greeting_told_ = false;
  std::optional<std::string> refusal_;  // the connection is to be closed
  std::string obstacle_ = "nothing is connected yet";
  int last_error_ = 0;
  uint64_t connections_ = 0;
  uint64_t losses_ = 0;
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_BACK_END_LINK_H_
