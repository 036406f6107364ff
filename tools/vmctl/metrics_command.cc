// metrics.

#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/taken_signals.h"
#include "base/unique_fd.h"
#include "proto/control_socket.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/discovery.h"
#include "tools/vmctl/json.h"
#include "tools/vmctl/listen_address.h"
#include "tools/vmctl/metrics_server.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/prometheus.h"
#include "tools/vmctl/standard_output.h"

namespace bulkhead::vmctl {
namespace {

// Well below Prometheus's own time for a scrape, 10 s: a VM that hangs delays the others by that.
constexpr absl::Duration kDefaultTimeout = absl::Seconds(3);
constexpr absl::Duration kMaxTimeout = absl::Minutes(1);

std::vector<VmAddress> WantedVms(const Invocation& invocation) {
  if (!invocation.socket.empty()) return {VmBehindSocket(invocation.socket)};
  std::vector<VmAddress> wanted;
  for (VmAddress& vm : FindRunningVms(RuntimeDirectories()).vms) {
    if (invocation.vm.empty() || vm.name == invocation.vm) wanted.push_back(std::move(vm));
  }
  return wanted;
}

ExitCode ServeMetrics(const Invocation& invocation) {
  if (invocation.json) return Fail(kUsage, "metrics: --json and --listen do not go together");
  absl::StatusOr<ListenAddress> address = ParseListenAddress(invocation.listen);
  if (!address.ok()) {
    return Fail(kUsage, absl::StrCat("metrics: --listen: ", address.status().message()));
  }
  if (!address->IsLoopback() && !invocation.allow_remote) {
    return Fail(kUsage, absl::StrCat("metrics: --listen: ", address->Text(),
                                     " is not a loopback address: other hosts could read the "
                                     "metrics, without a password; give 127.0.0.1 or [::1], or "
                                     "--allow-remote as well"));
  }
  const absl::Duration timeout = invocation.has_timeout ? invocation.timeout : kDefaultTimeout;
  if (timeout > kMaxTimeout) return Fail(kUsage, "metrics: --timeout: with --listen, 1m at most");
  signal(SIGPIPE, SIG_IGN);
  // Blocked before gRPC starts threads.
  const absl::StatusOr<UniqueFd> signals = TakeSignals({SIGINT, SIGTERM, SIGHUP, SIGQUIT});
  if (!signals.ok()) return Fail(kRefused, signals.status().message());
  absl::StatusOr<UniqueFd> listening = Listen(*address, MetricsServer::kBacklog);
  if (!listening.ok()) return Fail(kRefused, listening.status().message());
  const absl::StatusOr<std::unique_ptr<MetricsServer>> server = MetricsServer::Create(
      *std::move(listening), [&invocation] { return WantedVms(invocation); }, timeout);
  if (!server.ok()) return Fail(kRefused, server.status().message());
  Note(absl::StrCat("serving http://", address->Text(), "/metrics"));
  if (invocation.socket.empty()) {
    for (const std::string& warning : FindRunningVms(RuntimeDirectories()).warnings) Note(warning);
  }
  (*server)->Run(signals->get());
  // Without waiting for VMs that are being asked: there is nothing to finish.
  _exit(kOk);
}

}  // namespace

ExitCode RunMetrics(const Invocation& invocation) {
  if (!invocation.listen.empty()) return ServeMetrics(invocation);
  if (invocation.allow_remote) return Fail(kUsage, "metrics: --allow-remote needs --listen");
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const absl::StatusOr<v1::VmMetrics> metrics = client->GetMetrics();
  if (!metrics.ok()) return FailedCall(metrics.status());
  return Print(invocation.json ? PrettyJson(*metrics) : PrometheusText(*metrics));
}

}  // namespace bulkhead::vmctl
