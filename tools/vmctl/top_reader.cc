#include "tools/vmctl/top_reader.h"

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/event_fd.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::vmctl {

absl::StatusOr<TopReading> ReadTop(VmClient& client) {
  TopReading reading;
  ASSIGN_OR_RETURN(reading.status, client.GetStatus());
  ASSIGN_OR_RETURN(reading.devices, client.ListDevices());
  ASSIGN_OR_RETURN(reading.metrics, client.GetMetrics());
  reading.time = absl::Now();
  reading.steady_time = SteadyNow();
  return reading;
}

struct TopReader::Shared {
  Shared(std::unique_ptr<VmClient> vm, EventFd event)
      : client(std::move(vm)), answered(std::move(event)) {}

  void Run() {
    while (true) {
      {
        absl::MutexLock lock(&mutex);
        mutex.Await(absl::Condition(&asked));
        asked = false;
      }
      absl::StatusOr<TopReading> reading = ReadTop(*client);
      absl::MutexLock lock(&mutex);
      answer = std::move(reading);
      answered.Signal();
    }
  }

  const std::unique_ptr<VmClient> client;
  const EventFd answered;
  absl::Mutex mutex;
  bool asked ABSL_GUARDED_BY(mutex) = false;
  std::optional<absl::StatusOr<TopReading>> answer ABSL_GUARDED_BY(mutex);
};

absl::StatusOr<std::unique_ptr<TopReader>> TopReader::Create(std::unique_ptr<VmClient> client) {
  ASSIGN_OR_RETURN(EventFd answered, EventFd::Create());
  auto shared = std::make_shared<Shared>(std::move(client), std::move(answered));
  const int error = StartDetachedThread("top", [shared] { shared->Run(); });
  if (error != 0) return ErrnoToStatus(error, "starting a thread");
  return std::unique_ptr<TopReader>(new TopReader(std::move(shared)));
}

void TopReader::Ask() {
  absl::MutexLock lock(&shared_->mutex);
  shared_->asked = true;
}

int TopReader::fd() const { return shared_->answered.fd(); }

std::optional<absl::StatusOr<TopReading>> TopReader::Take() {
  absl::MutexLock lock(&shared_->mutex);
  shared_->answered.Drain();
  return std::exchange(shared_->answer, std::nullopt);
}

}  // namespace bulkhead::vmctl
