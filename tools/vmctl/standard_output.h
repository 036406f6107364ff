#ifndef BULKHEAD_TOOLS_VMCTL_STANDARD_OUTPUT_H_
#define BULKHEAD_TOOLS_VMCTL_STANDARD_OUTPUT_H_

#include <stddef.h>

#include "absl/strings/string_view.h"
#include "tools/vmctl/exit_code.h"

namespace bulkhead::vmctl {

// Whether standard output is a terminal that shows colours: NO_COLOR and TERM=dumb say no.
bool OutputHasColor();

// Columns of the terminal on standard output; 0: it is none, or it does not say.
size_t OutputWidth();

// Writes to standard output, to the last byte. Says so if it cannot (kRefused).
ExitCode Print(absl::string_view text);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_STANDARD_OUTPUT_H_
