#ifndef BULKHEAD_BASE_CRASH_POINT_H_
#define BULKHEAD_BASE_CRASH_POINT_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// CRASH_POINT("after_apply"): a named place where a test can kill this process as SIGKILL does
// (init of a PID namespace exits with code 137): no destructor runs, no handler runs, no buffer is
// written. A test tries every name in turn, to see that a successor copes with each.
//
// Costs one test of a bool, which is false outside of such tests. `name` is a literal, [a-z_]+.
// Do not use it in templates or inline functions: their copies would clash in the list of names.
#define CRASH_POINT(name)                                                           \
  do {                                                                              \
    static const char kCrashPointName[]                                             \
        __attribute__((section("bulkhead_crash_points"), used, aligned(1))) = name; \
    if (__builtin_expect(::bulkhead::crash_point_internal::armed, false)) {         \
      ::bulkhead::crash_point_internal::Reach(kCrashPointName);                     \
    }                                                                               \
  } while (false)

namespace bulkhead {

// The names of the crash points in this program, each once, sorted.
std::vector<std::string> CrashPointNames();

// Arms one crash point. `spec` is "NAME[:COUNT[:GENERATION]]": the process dies when it reaches
// NAME for the COUNT-th time (default: 1), if `generation`, its own, is GENERATION (default: any).
// Several, with commas between them: the first of this generation. Empty: arms none. Call before
// threads start. Errors: InvalidArgument (no such name; lists all names).
absl::Status ArmCrashPoint(absl::string_view spec, uint64_t generation);

namespace crash_point_internal {
extern bool armed;
void Reach(const char* name);
}  // namespace crash_point_internal

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_CRASH_POINT_H_
