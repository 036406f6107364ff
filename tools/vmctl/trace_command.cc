// trace.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/standard_output.h"
#include "tools/vmctl/table.h"
#include "tools/vmctl/text.h"
#include "tools/vmctl/trace_file.h"

namespace bulkhead::vmctl {
namespace {

volatile sig_atomic_t interrupted = 0;

// Ctrl-C ends the trace early, and the file is whole. A job in the background of a script ignores
// SIGINT, and goes on doing so.
void EndOnInterrupt() {
  struct sigaction action = {};
  if (sigaction(SIGINT, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) return;
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
}

bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

std::string Mean(const TraceFile::Totals& totals) {
  if (totals.requests == 0) return "";
  return FormatSpan(absl::Nanoseconds(totals.request_ns / totals.requests));
}

std::string Summary(const TraceFile& file) {
  Table table({"DEVICE", "ACCESSES", "DOORBELLS", "INTERRUPTS", "REQUESTS", "MEAN", "LONGEST",
               "PROCESSES ENDED"});
  for (const TraceFile::Totals& totals : file.totals()) {
    table.Add({Printable(totals.device), absl::StrCat(totals.accesses),
               absl::StrCat(totals.doorbells), absl::StrCat(totals.interrupts),
               absl::StrCat(totals.requests), Mean(totals),
               totals.requests == 0 ? "" : FormatSpan(absl::Nanoseconds(totals.longest_request_ns)),
               absl::StrCat(totals.ends)});
  }
  return table.Text(OutputWidth(), OutputHasColor());
}

}  // namespace

ExitCode RunTrace(const Invocation& invocation) {
  if (invocation.output.empty()) return Fail(kUsage, "trace: give the file: --output FILE");
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const std::string& path = invocation.output;
  UniqueFd output(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!output.ok()) return Fail(kRefused, absl::StrCat(path, ": ", strerror(errno)));
  int error = 0;
  TraceFile file([&](absl::string_view text) {
    if (WriteAll(output.get(), text)) return true;
    error = errno;
    return false;
  });
  EndOnInterrupt();
  const absl::Status status = client->Trace(
      absl::Seconds(invocation.seconds),
      [&](const v1::TraceChunk& chunk) { return file.Add(chunk) && interrupted == 0; });
  // What came before an error is worth having.
  const bool written = file.Finish();
  if (error != 0) return Fail(kRefused, absl::StrCat(path, ": ", strerror(error)));
  if (!written) return FailedCall(status);
  if (file.full()) {
    Note(absl::StrCat("the trace ended early: the file is ", FormatBytes(TraceFile::kMaxBytes),
                      " long, and a longer one would not open"));
  }
  if (file.lost() != 0) {
    Note(absl::StrCat(file.lost(), " records came too fast, and are not in the file"));
  }
  code = Print(Summary(file));
  if (!status.ok()) return FailedCall(status);
  Note(absl::StrCat("wrote ", path, "; open it in https://ui.perfetto.dev"));
  return code;
}

}  // namespace bulkhead::vmctl
