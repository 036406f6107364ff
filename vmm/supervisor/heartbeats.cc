#include "vmm/supervisor/heartbeats.h"

#include <unistd.h>

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
  // Another one for each vmm: those of a host should not all ask at once.
  static const double phase = getpid() % 64 / 64.0;
  const absl::Time start = absl::UnixEpoch() + phase * spec_.interval;
  return start + absl::Ceil(now + 0.9 * spec_.interval - start, spec_.interval);
}

absl::Time Heartbeats::Look(absl::Time now, DeviceClock::Demands& demands) {
  if (now < next_) return next_;
  next_ = NextTime(now);
  if (asked_ != absl::InfiniteFuture()) {
    const std::optional<channel::ChannelClient::Heartbeat> answer = channel_->heartbeat();
    if (answer.has_value() ? OnAnswer(*answer, now) : OnMiss()) demands.push_back(attention_);
    // It is not asked again: an answer that is late proves progress, too.
    if (!answer.has_value()) return next_;
  }
  asked_ = now;
  channel_->AskForHeartbeat();
  return next_;
}

bool Heartbeats::OnAnswer(const channel::ChannelClient::Heartbeat& answer, absl::Time now) {
  missed_ = 0;
  report_.HeartbeatAnswered(std::clamp(answer.time - asked_, absl::ZeroDuration(), now - asked_));
  const bool idle = channel_->SeemsIdle() && channel_->status().ok();
  absl::MutexLock lock(&mutex_);
  news_.hangs = false;
  if (!news_.stalls) news_.silent_since = absl::InfiniteFuture();
  news_.answered |= !idle;
  news_.in_long_call = answer.in_long_call;
  return !idle;
}

bool Heartbeats::OnMiss() {
  if (missed_ >= spec_.misses) return false;  // the supervisor will see it
  report_.HeartbeatMissed(++missed_);
  absl::MutexLock lock(&mutex_);
  if (missed_ == 1) news_.silent_since = asked_;
  news_.hangs = missed_ >= spec_.misses;
  return news_.hangs;
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
  news_.stalls = true;
  news_.silent_since = SteadyNow() - spec_.stall_timeout;
  return absl::StrCat("it left an access unanswered for ",
                      absl::FormatDuration(spec_.stall_timeout),
                      " while it answered its heartbeats");
}

}  // namespace bulkhead::vmm
