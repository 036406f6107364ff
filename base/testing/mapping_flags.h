#ifndef BULKHEAD_BASE_TESTING_MAPPING_FLAGS_H_
#define BULKHEAD_BASE_TESTING_MAPPING_FLAGS_H_

#include <stdint.h>
#include <stdio.h>

#include <fstream>
#include <string>

namespace bulkhead {

// VmFlags of /proc/self/smaps of the mapping that holds this address: " rd wr sh ... dd ".
inline std::string MappingFlags(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  bool found = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long start = 0;  // NOLINT(google-runtime-int): %lx
    unsigned long end = 0;    // NOLINT(google-runtime-int)
    if (sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2) {
      const auto wanted = reinterpret_cast<uintptr_t>(address);
      found = start <= wanted && wanted < end;
    } else if (found && line.rfind("VmFlags:", 0) == 0) {
      return line.substr(8);
    }
  }
  return "";
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_MAPPING_FLAGS_H_
