#include "tools/vmctl/exit_code.h"

#include <stdio.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

void WriteLine(absl::string_view prefix, absl::string_view text) {
  // What came before it on standard output should also be seen before it.
  fflush(stdout);
  const std::string line = absl::StrCat(prefix, Printable(text), "\n");
  fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

ExitCode Fail(ExitCode code, absl::string_view text) {
  WriteLine("vmctl: error: ", text);
  return code;
}

ExitCode FailedCall(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return Fail(kNoVm, status.message());
    case absl::StatusCode::kNotFound:
      return Fail(kNoSuchDevice, status.message());
    case absl::StatusCode::kDeadlineExceeded:
      return Fail(kTimedOut, status.message());
    default:
      return Fail(kRefused, status.message());
  }
}

void Note(absl::string_view text) { WriteLine("vmctl: ", text); }

}  // namespace bulkhead::vmctl
