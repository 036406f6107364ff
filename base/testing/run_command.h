#ifndef BULKHEAD_BASE_TESTING_RUN_COMMAND_H_
#define BULKHEAD_BASE_TESTING_RUN_COMMAND_H_

#include <stdio.h>
#include <sys/wait.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace bulkhead {

struct CommandResult {
  int exit_code = -1;  // -1: ended by a signal
  std::string output;  // standard output and standard error
};

// Runs commands in a shell, without input.
inline CommandResult RunCommand(const std::string& command) {
  CommandResult result;
  FILE* const pipe = popen(absl::StrCat("{ ", command, "\n} 2>&1 </dev/null").c_str(), "re");
  if (pipe == nullptr) return result;
  char bytes[4096];
  while (const size_t n = fread(bytes, 1, sizeof(bytes), pipe)) result.output.append(bytes, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

// The same; fails the test unless the exit code is 0.
inline std::string OutputOf(const std::string& command) {
  CommandResult result = RunCommand(command);
  EXPECT_EQ(result.exit_code, 0) << command << "\n" << result.output;
  return result.output;
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_RUN_COMMAND_H_
