#ifndef BULKHEAD_BASE_STATUS_MACROS_H_
#define BULKHEAD_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"

// RETURN_IF_ERROR(expr): returns the absl::Status `expr` from the function, if it is not OK.
#define RETURN_IF_ERROR(expr)                                       \
  do {                                                              \
    if (absl::Status status_macro_ = (expr); !status_macro_.ok()) { \
      return status_macro_;                                         \
    }                                                               \
  } while (false)

// ASSIGN_OR_RETURN(lhs, expr): moves the value of `expr` (an absl::StatusOr) into `lhs`,
// which may declare a variable, or returns its status.
#define ASSIGN_OR_RETURN(lhs, expr) \
  BULKHEAD_ASSIGN_OR_RETURN_(BULKHEAD_CONCAT_(statusor_macro_, __LINE__), lhs, expr)

#define BULKHEAD_ASSIGN_OR_RETURN_(statusor, lhs, expr)    \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = *std::move(statusor)

#define BULKHEAD_CONCAT_INNER_(a, b) a##b
#define BULKHEAD_CONCAT_(a, b) BULKHEAD_CONCAT_INNER_(a, b)

#endif  // BULKHEAD_BASE_STATUS_MACROS_H_
