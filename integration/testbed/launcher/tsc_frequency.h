#ifndef BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_TSC_FREQUENCY_H_
#define BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_TSC_FREQUENCY_H_

#include <cstdint>

namespace bulkhead::testbed {

// How fast this machine's time stamp counter runs, in kHz, to 0.1 percent also where other
// processes want the processor. Blocks for 50 ms.
int64_t MeasureTscKhz();

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_TSC_FREQUENCY_H_
