#ifndef BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_TSC_FREQUENCY_H_
#define BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_TSC_FREQUENCY_H_

#include <cstdint>

namespace bulkhead::testbed {

// The frequency of this machine's time stamp counter in kHz, to 0.1 percent even on a busy machine.
// Blocks for 50 ms.
int64_t MeasureTscKhz();

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_TSC_FREQUENCY_H_
