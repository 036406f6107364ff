#include "tools/vmctl/standard_output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace bulkhead::vmctl {

bool OutputHasColor() {
  const char* no_color = getenv("NO_COLOR");
  const char* term = getenv("TERM");
  return isatty(STDOUT_FILENO) == 1 && (no_color == nullptr || no_color[0] == '\0') &&
         (term == nullptr || strcmp(term, "dumb") != 0);
}

size_t OutputWidth() {
  winsize size = {};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

ExitCode Print(absl::string_view text) {
  if (fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0) return kOk;
  return Fail(kRefused, absl::StrCat("cannot write to standard output: ", strerror(errno)));
}

}  // namespace bulkhead::vmctl
