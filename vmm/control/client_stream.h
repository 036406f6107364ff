#ifndef BULKHEAD_VMM_CONTROL_CLIENT_STREAM_H_
#define BULKHEAD_VMM_CONTROL_CLIENT_STREAM_H_

#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/control/open_calls.h"

namespace bulkhead::vmm {

// The state machine of a stream to a client. Any thread may report changes. Step() handles them, on
// one thread at a time, and only Step() uses the stream. So it needs no lock, and holds none while
// it calls gRPC, the VM or a console.
class ClientStream : public OpenCall, public std::enable_shared_from_this<ClientStream> {
 public:
  void Pump() override { Notify({}); }
  void End(const absl::Status& why) override { Notify({.end = why}); }

 protected:
  // The changes since the last step.
  struct Changes {
    bool written = false;    // a write is done
    bool read = false;       // a read is done
    bool cancelled = false;  // the client is gone, or a write failed
    bool input_ended = false;
    absl::Status end = absl::OkStatus();  // if not OK: finish with it when nothing is left to send
  };

  // Makes Step() run, here or on the thread that already runs it.
  void Notify(Changes changes);

  virtual void Step(const Changes& changes) = 0;

 private:
  absl::Mutex mutex_;
  Changes changes_ ABSL_GUARDED_BY(mutex_);
  bool stepping_ ABSL_GUARDED_BY(mutex_) = false;
  bool again_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CLIENT_STREAM_H_
