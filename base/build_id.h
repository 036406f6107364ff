#ifndef BULKHEAD_BASE_BUILD_ID_H_
#define BULKHEAD_BASE_BUILD_ID_H_

#include <string>

namespace bulkhead {

// The hash that the linker put into this program (NT_GNU_BUILD_ID), in hexadecimal: the same for
// the same sources, options and toolchain, another for any other. Empty: there is none.
std::string BuildId();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_BUILD_ID_H_
