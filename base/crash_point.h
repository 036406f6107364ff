#ifndef BULKHEAD_BASE_CRASH_POINT_H_
#define BULKHEAD_BASE_CRASH_POINT_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// CRASH_POINT("after_apply"): a named place at which a test can have a process die as by SIGKILL
// (as init of a PID namespace: with exit code 137), in the middle of what it does: no destructor,
// no handler, no buffer written. What a successor then has to cope with is found by trying every
// name, in turn.
//
// Costs one test of a bool, which is false outside of such tests. `name` is a literal, [a-z_]+.
// Not within templates or inline functions: their copies would clash in the list of names.
#define CRASH_POINT(name)                                                           \
  do {                                                                              \
    static const char kCrashPointName[]                                             \
        __attribute__((section("bulkhead_crash_points"), used, aligned(1))) = name; \
    if (__builtin_expect(::bulkhead::crash_point_internal::armed, false)) {         \
      ::bulkhead::crash_point_internal::Reach(kCrashPointName);                     \
    }                                                                               \
  } while (false)

namespace bulkhead {

// The names in this program, each once, in alphabetical order.
std::vector<std::string> CrashPointNames();

// Has this process die where `spec` says, "NAME[:COUNT[:GENERATION]]": the COUNT-th time (from 1,
// the default) that NAME is reached, and only if this is process GENERATION of its device
// (default: any), as `generation` tells. Empty: nowhere. Call before threads start.
// Errors: InvalidArgument (no such name; it lists them).
absl::Status ArmCrashPoint(absl::string_view spec, uint64_t generation);

namespace crash_point_internal {
extern bool armed;
void Reach(const char* name);
}  // namespace crash_point_internal

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_CRASH_POINT_H_
