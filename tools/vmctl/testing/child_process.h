#ifndef BULKHEAD_TOOLS_VMCTL_TESTING_CHILD_PROCESS_H_
#define BULKHEAD_TOOLS_VMCTL_TESTING_CHILD_PROCESS_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "base/testing/child_process.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {

// A ChildProcess (base/testing) whose failures and timeouts fail the test.
class ChildProcess {
 public:
  using Streams = bulkhead::ChildProcess::Streams;

  static std::unique_ptr<ChildProcess> Start(const std::vector<std::string>& command,
                                             const std::vector<std::string>& environment,
                                             Streams streams = Streams::kPipes) {
    auto process = bulkhead::ChildProcess::Start(command, environment, streams);
    EXPECT_TRUE(process.ok()) << process.status();
    return std::unique_ptr<ChildProcess>(new ChildProcess(*std::move(process)));
  }

  std::string WaitForOutput(absl::string_view text) {
    return Checked(process_->WaitForOutput(text, kDeadline));
  }
  std::string WaitForError(absl::string_view text) {
    return Checked(process_->WaitForError(text, kDeadline));
  }
  void Write(absl::string_view bytes) { EXPECT_EQ(process_->Write(bytes), absl::OkStatus()); }
  void CloseInput() { process_->CloseInput(); }
  void Signal(int signal) { EXPECT_EQ(process_->Signal(signal), absl::OkStatus()); }

  // Reads both outputs to their end, and waits for the end of the process: "exit code 0".
  std::string WaitForEnd() { return Checked(process_->WaitForExit(kDeadline)).ToString(); }

  const std::string& output() const { return process_->output(); }
  const std::string& error() const { return process_->error(); }
  int terminal() const { return process_->terminal(); }
  pid_t pid() const { return process_->pid(); }

 private:
  static constexpr absl::Duration kDeadline = absl::Minutes(1);

  explicit ChildProcess(std::unique_ptr<bulkhead::ChildProcess> process)
      : process_(std::move(process)) {}

  template <typename T>
  static T Checked(absl::StatusOr<T> result) {
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : T();
  }

  const std::unique_ptr<bulkhead::ChildProcess> process_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TESTING_CHILD_PROCESS_H_
