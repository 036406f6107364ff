#ifndef BULKHEAD_BASE_BUILD_ID_H_
#define BULKHEAD_BASE_BUILD_ID_H_

#include <string>

namespace bulkhead {

// The build ID that the linker put into this program (NT_GNU_BUILD_ID), in hexadecimal. The same
// sources, options and toolchain give the same ID. Empty: the program has none.
std::string BuildId();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_BUILD_ID_H_
