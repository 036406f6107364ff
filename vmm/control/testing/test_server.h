#ifndef BULKHEAD_VMM_CONTROL_TESTING_TEST_SERVER_H_
#define BULKHEAD_VMM_CONTROL_TESTING_TEST_SERVER_H_

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "proto/vm_control.grpc.pb.h"
#include "vmm/control/control_server.h"
#include "vmm/control/refused_clients.h"
#include "vmm/control/testing/fake_vm.h"

namespace bulkhead::vmm {

// The deadline of every call of a test. Far more than a call takes.
inline constexpr absl::Duration kCallTimeout = absl::Seconds(20);

// A context with that deadline.
class TestContext : public grpc::ClientContext {
 public:
  explicit TestContext(absl::Duration timeout = kCallTimeout) {
    set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
};

// A ControlServer for a FakeVm, on a socket in the test's folder.
struct TestServer {
  enum class Kind { kControl, kMonitor };
  // The control socket of which a monitor's clients are told.
  static constexpr char kControlSocket[] = "/run/bulkhead/fake.sock";

  explicit TestServer(const ControlLimits& limits = {}, Kind kind = Kind::kControl);

  // A new connection.
  std::shared_ptr<grpc::Channel> Connect() const;
  std::unique_ptr<v1::VmControl::Stub> NewStub() const;

  const std::string path;
  FakeVm vm;
  RefusedClients refused;
  std::unique_ptr<ControlServer> server;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_TESTING_TEST_SERVER_H_
