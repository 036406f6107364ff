#include "vmm/supervisor/heartbeats.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kMetricsInterval = absl::Seconds(5);

}  // namespace

void Heartbeats::Begin(uint64_t generation) {
  generation_ = generation;
  stall_.Begin();
  missed_ = 0;
  silent_since_ = absl::InfiniteFuture();
  const bool wanted = spec_.interval > absl::ZeroDuration();
  next_ = wanted ? SteadyNow() + spec_.interval : absl::InfiniteFuture();
  next_metrics_ = SteadyNow();
}

std::string Heartbeats::Send(ControlClient& process, absl::FunctionRef<uint64_t()> oldest_pending) {
  const absl::Time sent = SteadyNow();
  // A process can keep gRPC from ending a call. Such a call is cut only once it has lasted as long
  // as the missed heartbeats of a hang: the host may be slow.
  const absl::Duration grace =
      std::max(ControlCall::kGrace, spec_.interval * (static_cast<int>(spec_.misses) - 1));
  ControlCall call(spec_.interval, grace);
  absl::StatusOr<v1::HeartbeatReply> reply;
  {
    const Attention::Interruptible wait(*attention_, Attention::Urgency::kNews,
                                        [&call] { call.Cancel(); });
    reply = process.Heartbeat(call);
  }
  if (const absl::string_view why = process.why_cut(); !why.empty()) {
    CountMiss(sent);
    return std::string(why);
  }
  if (!reply.ok() && call.cancelled()) return "";
  next_ = sent + spec_.interval;
  // UNIMPLEMENTED too is a miss: every device of this contract has heartbeats, and to say
  // otherwise would be a way out of supervision.
  if (!reply.ok() || reply->generation() != generation_) return CountMiss(sent);
  missed_ = 0;
  silent_since_ = absl::InfiniteFuture();
  report_.HeartbeatAnswered(SteadyNow() - sent);
  if (stall_.OnHeartbeat(oldest_pending(), reply->in_long_call())) {
    silent_since_ = sent - spec_.stall_timeout;
    return absl::StrCat("it left an access unanswered for ",
                        absl::FormatDuration(spec_.stall_timeout),
                        " while it answered its heartbeats");
  }
  if (SteadyNow() >= next_metrics_) FetchMetrics(process);
  return "";
}

std::string Heartbeats::CountMiss(absl::Time sent) {
  if (++missed_ == 1) silent_since_ = sent;
  report_.HeartbeatMissed(missed_);
  return missed_ >= spec_.misses ? "it did not answer its heartbeats" : "";
}

void Heartbeats::FetchMetrics(ControlClient& process) {
  ControlCall call(spec_.interval);
  const Attention::Interruptible wait(*attention_, Attention::Urgency::kNews,
                                      [&call] { call.Cancel(); });
  const absl::StatusOr<v1::DeviceMetrics> metrics = process.GetMetrics(call);
  if (metrics.ok()) report_.SetMetrics(*metrics);
  if (metrics.ok() || !call.cancelled()) next_metrics_ = SteadyNow() + kMetricsInterval;
}

}  // namespace bulkhead::vmm
