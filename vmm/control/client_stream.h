#ifndef BULKHEAD_VMM_CONTROL_CLIENT_STREAM_H_
#define BULKHEAD_VMM_CONTROL_CLIENT_STREAM_H_

#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/control/open_calls.h"

namespace bulkhead::vmm {

// The state machine of a stream to a client. News come on any thread; Step() acts on them, one
// thread at a time, and is alone to use the stream. So it needs no lock of its own, and holds none
// while it calls gRPC, the VM or a console.
class ClientStream : public OpenCall, public std::enable_shared_from_this<ClientStream> {
 public:
  void Pump() override { Tell({}); }
  void End(const absl::Status& why) override { Tell({.end = why}); }

 protected:
  // What has happened since the last step.
  struct News {
    bool written = false;    // a write is done
    bool read = false;       // a read is done
    bool cancelled = false;  // the client is gone, or a write failed
    bool no_more_input = false;
    absl::Status end = absl::OkStatus();  // else: finish with it once there is nothing to send
  };

  // Runs Step(), here or on the thread that runs it now.
  void Tell(News news);

  virtual void Step(const News& news) = 0;

 private:
  absl::Mutex mutex_;
  News news_ ABSL_GUARDED_BY(mutex_);
  bool stepping_ ABSL_GUARDED_BY(mutex_) = false;
  bool again_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CLIENT_STREAM_H_
