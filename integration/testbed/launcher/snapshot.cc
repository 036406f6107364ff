#include "integration/testbed/launcher/snapshot.h"

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "integration/testbed/launcher/qemu_control.h"
#include "integration/testbed/wire.h"

namespace bulkhead::testbed {
namespace {

constexpr absl::Duration kProgressInterval = absl::Milliseconds(20);

absl::Status AwaitBoot(int agent_fd, absl::Time deadline) {
  FrameReader reader;
  while (true) {
    absl::StatusOr<Frame> frame = reader.Next();
    if (frame.ok() && frame->type == FrameType::kBooted) return absl::OkStatus();
    if (frame.ok()) return absl::InternalError("unexpected frame from the agent");
    if (!absl::IsUnavailable(frame.status())) return frame.status();
    ASSIGN_OR_RETURN(const std::string bytes, ReadFromQemu(agent_fd, deadline));
    reader.Append(bytes);
  }
}

}  // namespace

absl::Status SaveSnapshot(VirtualMachine& machine, const std::string& path, absl::Time deadline) {
  RETURN_IF_ERROR(AwaitBoot(machine.agent_fd(), deadline));
  QemuControl control(machine.control_fd(), deadline);
  RETURN_IF_ERROR(control.Execute(R"({"execute": "qmp_capabilities"})").status());
  // Not stopped first: a machine that was saved while it ran also runs once it is loaded.
  RETURN_IF_ERROR(control
                      .Execute(R"({"execute": "migrate-set-parameters",
                                   "arguments": {"max-bandwidth": 1000000000000}})")
                      .status());
  RETURN_IF_ERROR(
      control
          .Execute(absl::StrCat(R"({"execute": "migrate", "arguments": {"uri": "exec:cat > ')",
                                path, R"('"}})"))
          .status());
  while (true) {
    ASSIGN_OR_RETURN(const std::string state, control.Execute(R"({"execute": "query-migrate"})"));
    if (absl::StrContains(state, R"("status": "completed")")) return absl::OkStatus();
    if (absl::StrContains(state, R"("status": "failed")")) return absl::InternalError(state);
    if (SteadyNow() >= deadline) return absl::DeadlineExceededError(state);
    absl::SleepFor(kProgressInterval);
  }
}

}  // namespace bulkhead::testbed
