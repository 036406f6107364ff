#include "tools/vmctl/metrics_round.h"

#include <utility>

#include "base/steady_time.h"

namespace bulkhead::vmctl {

MetricsRound::MetricsRound(absl::Span<const VmAddress> vms, absl::Duration timeout,
                           grpc::CompletionQueue& answers, const EventFd& finished)
    : finished_(finished), begin_(SteadyNow()) {
  for (const VmAddress& vm : vms) {
    absl::StatusOr<std::unique_ptr<VmClient>> client = VmClient::Connect(vm, timeout);
    clients_.push_back(client.ok() ? *std::move(client) : nullptr);
  }
  {
    absl::MutexLock lock(&mutex_);
    for (std::string& label : LabelsOf(vms)) answers_.push_back({.label = std::move(label)});
    for (const auto& client : clients_) missing_ += client != nullptr ? 1 : 0;
    if (missing_ == 0) finished_.Signal();
  }
  for (size_t i = 0; i < clients_.size(); ++i) {
    if (clients_[i] == nullptr) continue;
    clients_[i]->StartGetMetrics(answers, [this, i](absl::StatusOr<v1::VmMetrics> metrics) {
      OnAnswer(i, std::move(metrics));
    });
  }
}

MetricsRound::~MetricsRound() {
  absl::MutexLock lock(&mutex_);
  const auto all = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return missing_ == 0; };
  mutex_.Await(absl::Condition(&all));
}

void MetricsRound::OnAnswer(size_t vm, absl::StatusOr<v1::VmMetrics> metrics) {
  absl::MutexLock lock(&mutex_);
  VmAnswer& answer = answers_[vm];
  answer.answer_time = SteadyNow() - begin_;
  if (metrics.ok()) answer.metrics = *std::move(metrics);
  // Under the lock: afterwards this may be gone.
  if (--missing_ == 0) finished_.Signal();
}

bool MetricsRound::is_finished() const {
  absl::MutexLock lock(&mutex_);
  return missing_ == 0;
}

std::vector<VmAnswer> MetricsRound::TakeAnswers() {
  absl::MutexLock lock(&mutex_);
  return std::move(answers_);
}

}  // namespace bulkhead::vmctl
