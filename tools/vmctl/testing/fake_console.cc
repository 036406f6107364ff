#include "tools/vmctl/testing/fake_console.h"

#include <deque>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/support/server_callback.h"

namespace bulkhead::vmctl {

class FakeConsole::Attachment : public Reactor {
 public:
  explicit Attachment(FakeConsole& console) : console_(console) { StartRead(&input_); }

  void Put(const v1::ConsoleOutput& output) {
    absl::MutexLock lock(&mutex_);
    waiting_.push_back(output);
    Write();
  }

  // Once what waits is sent.
  void End(const grpc::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (ending_) return;
    ending_ = true;
    status_ = status;
    Write();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return End(grpc::Status::OK);  // the client has typed all it wants
    if (!attached_) {
      if (!input_.device().empty() && input_.device() != "console") {
        return End(grpc::Status(grpc::StatusCode::NOT_FOUND,
                                absl::StrCat("device \"", input_.device(), "\" is no console")));
      }
      attached_ = true;
      {
        absl::MutexLock lock(&console_.mutex_);
        console_.attached_.insert(this);
      }
      console_.tell_(absl::StrCat("attached ", input_.device()));
    } else {
      console_.tell_(absl::StrCat("typed ", absl::CEscape(input_.data())));
    }
    StartRead(&input_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) waiting_.clear();
    Write();
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }

  void OnDone() override {
    if (attached_) {
      {
        absl::MutexLock lock(&console_.mutex_);
        console_.attached_.erase(this);
      }
      console_.tell_("detached");
    }
    delete this;
  }

  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (!waiting_.empty()) {
      output_ = std::move(waiting_.front());
      waiting_.pop_front();
      writing_ = true;
      StartWrite(&output_);
    } else if (ending_) {
      finished_ = true;
      Finish(status_);
    }
  }

  FakeConsole& console_;
  bool attached_ = false;  // of the callbacks that read
  v1::ConsoleInput input_;
  absl::Mutex mutex_;
  std::deque<v1::ConsoleOutput> waiting_ ABSL_GUARDED_BY(mutex_);
  v1::ConsoleOutput output_;  // gRPC's while writing_
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

FakeConsole::Reactor* FakeConsole::Attach() { return new Attachment(*this); }

void FakeConsole::Send(const v1::ConsoleOutput& output) {
  absl::MutexLock lock(&mutex_);
  for (Attachment* attachment : attached_) attachment->Put(output);
}

void FakeConsole::End() {
  absl::MutexLock lock(&mutex_);
  for (Attachment* attachment : attached_) {
    attachment->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the VM is ending"));
  }
}

}  // namespace bulkhead::vmctl
