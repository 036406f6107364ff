#include "tools/vmctl/console_stream.h"

#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/event_fd.h"
#include "base/status_macros.h"
#include "grpcpp/support/client_callback.h"
#include "tools/vmctl/vm_client.h"
#include "tools/vmctl/vm_client_impl.h"

namespace bulkhead::vmctl {
namespace {

using Reactor = grpc::ClientBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>;

// gRPC's callbacks note what happened and signal; the polling thread does the rest.
class GrpcConsoleStream : public ConsoleStream, private Reactor {
 public:
  GrpcConsoleStream(v1::VmControl::Stub& stub, EventFd changed,
                    std::function<absl::Status(const grpc::Status&)> to_status)
      : to_status_(std::move(to_status)), changed_(std::move(changed)) {
    stub.async()->AttachConsole(&context_, this);
  }

  ~GrpcConsoleStream() override {
    context_.TryCancel();
    RemoveHold();
    // Soon: nothing is waited for but callbacks of a cancelled call.
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&done_));
  }

  void Start(const std::string& device) {
    // Reads and writes begin outside callbacks: gRPC wants to know.
    AddHold();
    {
      absl::MutexLock lock(&mutex_);
      input_.set_device(device);
      sending_ = true;
      StartWrite(&input_);
      StartRead(&output_);
    }
    StartCall();
  }

  int fd() const override { return changed_.fd(); }
  void Drain() override { changed_.Drain(); }

  bool attached() const override {
    absl::MutexLock lock(&mutex_);
    return attached_;
  }

  bool can_send() const override {
    absl::MutexLock lock(&mutex_);
    return !sending_ && !broken_;
  }

  // After the end no operation may start, and it may have come since can_send().
  void Send(std::string bytes) override {
    absl::MutexLock lock(&mutex_);
    if (broken_) return;
    input_.clear_device();
    input_.set_data(std::move(bytes));
    sending_ = true;
    StartWrite(&input_);
  }

  void SendEnd() override {
    absl::MutexLock lock(&mutex_);
    if (broken_) return;
    sending_ = true;
    StartWritesDone();
  }

  bool Take(std::string& bytes, uint64_t& lost_bytes) override {
    absl::MutexLock lock(&mutex_);
    if (!received_) return false;
    bytes = std::move(*output_.mutable_data());
    lost_bytes = output_.lost_bytes();
    received_ = false;
    output_.Clear();
    StartRead(&output_);
    return true;
  }

  std::optional<absl::Status> ended() const override {
    absl::MutexLock lock(&mutex_);
    if (!done_) return std::nullopt;
    return to_status_(status_);
  }

 private:
  void OnReadInitialMetadataDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    attached_ = ok;
    changed_.Signal();
  }

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    if (ok) {
      attached_ = true;
      received_ = true;
    } else {
      // The stream is over. OnDone() follows once no operation can start any more.
      broken_ = true;
      ReleaseHold();
    }
    changed_.Signal();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    sending_ = false;
    if (!ok) broken_ = true;
    changed_.Signal();
  }

  void OnWritesDoneDone(bool /*ok*/) override {}

  void OnDone(const grpc::Status& status) override {
    absl::MutexLock lock(&mutex_);
    status_ = status;
    done_ = true;
    changed_.Signal();
  }

  void ReleaseHold() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!std::exchange(held_, false)) return;
    Reactor::RemoveHold();
  }
  void RemoveHold() {
    absl::MutexLock lock(&mutex_);
    ReleaseHold();
  }

  const std::function<absl::Status(const grpc::Status&)> to_status_;
  const EventFd changed_;
  grpc::ClientContext context_;
  mutable absl::Mutex mutex_;
  bool held_ ABSL_GUARDED_BY(mutex_) = true;
  v1::ConsoleInput input_;    // gRPC's while sending_
  v1::ConsoleOutput output_;  // gRPC's unless received_
  bool attached_ ABSL_GUARDED_BY(mutex_) = false;
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  bool received_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<ConsoleStream>> VmClient::AttachConsole(const std::string& device) {
  ASSIGN_OR_RETURN(EventFd changed, EventFd::Create());
  Impl* impl = impl_.get();
  auto stream = std::make_unique<GrpcConsoleStream>(
      impl_->stub(), std::move(changed),
      [impl](const grpc::Status& status) { return impl->ToStatus(status); });
  stream->Start(device);
  return stream;
}

}  // namespace bulkhead::vmctl
