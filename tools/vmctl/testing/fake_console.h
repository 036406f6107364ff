#ifndef BULKHEAD_TOOLS_VMCTL_TESTING_FAKE_CONSOLE_H_
#define BULKHEAD_TOOLS_VMCTL_TESTING_FAKE_CONSOLE_H_

#include <functional>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "proto/vm_control.pb.h"

namespace grpc {
template <typename Request, typename Response>
class ServerBidiReactor;
}  // namespace grpc

namespace bulkhead::vmctl {

// The console of a fake VM: sends output to all attached clients, and reports what they type.
// Thread-safe.
class FakeConsole {
 public:
  using Reactor = grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>;

  // `tell`: "attached DEVICE", "typed BYTES" (C escapes), "detached".
  explicit FakeConsole(std::function<void(const std::string&)> tell) : tell_(std::move(tell)) {}

  Reactor* Attach();
  void Send(const v1::ConsoleOutput& output);
  // Ends all streams with UNAVAILABLE.
  void End();

 private:
  class Attachment;

  const std::function<void(const std::string&)> tell_;
  absl::Mutex mutex_;
  std::set<Attachment*> attached_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TESTING_FAKE_CONSOLE_H_
