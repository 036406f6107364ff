#ifndef BULKHEAD_TOOLS_VMCTL_TOP_TEXT_H_
#define BULKHEAD_TOOLS_VMCTL_TOP_TEXT_H_

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "tools/vmctl/top.pb.h"

namespace bulkhead::vmctl {

struct TopLayout {
  size_t width = 80;  // columns; longer lines are cut, and from 101 on the table has more
  size_t height = 0;  // lines; 0: as many as are needed
  bool color = false;
};

// The lines of one screen, without ends of line. Pure.
std::vector<std::string> TopLines(const TopSample& sample, const TopLayout& layout);

// What the columns mean, and the keys: as much of it as fits. Without an end of line.
std::string TopLegend(size_t width);

// How top writes a rate: "0", "<0.1", "0.4", "12", "9999", "12.3k". At most 6 characters.
std::string FormatRate(double per_second);
// Likewise a number of things: "7".
std::string FormatCount(uint64_t count);
// Likewise bytes, of which 1024 are a K.
std::string FormatByteRate(double per_second);
// "850ns", "33us", "1.2ms", "2.5s".
std::string FormatLatency(double seconds);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TOP_TEXT_H_
