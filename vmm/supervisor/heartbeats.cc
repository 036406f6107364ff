#include "vmm/supervisor/heartbeats.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {

Heartbeats::Heartbeats(const HeartbeatSpec& spec, absl::Duration access_timeout, DeviceClock& clock,
                       std::shared_ptr<Attention> attention, DeviceReport& report)
    : spec_(spec),
      clock_(clock),
      attention_(std::move(attention)),
      report_(report),
      stall_(StallDetector::ForTimeout(spec.stall_timeout, access_timeout, spec.interval)) {}

void Heartbeats::Begin(channel::ChannelClient& channel) {
  End();
  {
    absl::MutexLock lock(&mutex_);
    news_ = {};
  }
  if (spec_.interval <= absl::ZeroDuration()) return;
  stall_.Begin();
  channel_ = &channel;
  asked_ = absl::InfiniteFuture();
  missed_ = 0;
  next_ = NextTime(SteadyNow());
  clock_.Add(*this);
}

void Heartbeats::End() {
  clock_.Remove(*this);
  absl::MutexLock lock(&mutex_);
  // Since when it was silent stays known until the next process serves.
  news_ = {.silent_since = news_.silent_since};
}

absl::Time Heartbeats::NextTime(absl::Time now) const {
  const absl::Duration earliest = now + 0.9 * spec_.interval - absl::UnixEpoch();
  return absl::UnixEpoch() + absl::Ceil(earliest, spec_.interval);
}

absl::Time Heartbeats::Look(absl::Time now) {
  if (now < next_) return next_;
  next_ = NextTime(now);
  if (asked_ != absl::InfiniteFuture()) {
    const std::optional<channel::ChannelClient::Heartbeat> answer = channel_->heartbeat();
    if (!answer.has_value()) {
      OnMiss();
      return next_;  // it is not asked again: an answer that is late proves progress, too
    }
    OnAnswer(*answer, now);
  }
  asked_ = now;
  channel_->AskForHeartbeat();
  return next_;
}

void Heartbeats::OnAnswer(const channel::ChannelClient::Heartbeat& answer, absl::Time now) {
  missed_ = 0;
  report_.HeartbeatAnswered(std::clamp(answer.time - asked_, absl::ZeroDuration(), now - asked_));
  const bool idle = channel_->SeemsIdle();
  {
    absl::MutexLock lock(&mutex_);
    news_.hangs = false;
    news_.silent_since = absl::InfiniteFuture();
    news_.answered |= !idle;
    news_.in_long_call = answer.in_long_call;
  }
  if (!idle) attention_->Demand(Attention::Urgency::kNews);
}

void Heartbeats::OnMiss() {
  if (missed_ >= spec_.misses) return;  // the supervisor will see it
  report_.HeartbeatMissed(++missed_);
  {
    absl::MutexLock lock(&mutex_);
    if (missed_ == 1) news_.silent_since = asked_;
    news_.hangs = missed_ >= spec_.misses;
    if (!news_.hangs) return;
  }
  attention_->Demand(Attention::Urgency::kNews);
}

bool Heartbeats::has_news() const {
  absl::MutexLock lock(&mutex_);
  return news_.answered || news_.hangs;
}

absl::Time Heartbeats::silent_since() const {
  absl::MutexLock lock(&mutex_);
  return news_.silent_since;
}

std::string Heartbeats::Check(absl::FunctionRef<uint64_t()> oldest_pending) {
  bool in_long_call = false;
  {
    absl::MutexLock lock(&mutex_);
    if (news_.hangs) return "it did not answer its heartbeats";
    if (!news_.answered) return "";
    news_.answered = false;
    in_long_call = news_.in_long_call;
  }
  if (!stall_.OnHeartbeat(oldest_pending(), in_long_call)) return "";
  absl::MutexLock lock(&mutex_);
  news_.silent_since = SteadyNow() - spec_.stall_timeout;
  return absl::StrCat("it left an access unanswered for ",
                      absl::FormatDuration(spec_.stall_timeout),
                      " while it answered its heartbeats");
}

}  // namespace bulkhead::vmm
