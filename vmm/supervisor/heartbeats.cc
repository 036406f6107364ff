#include "vmm/supervisor/heartbeats.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kMetricsInterval = absl::Seconds(5);

}  // namespace

void Heartbeats::Begin(uint64_t generation) {
  generation_ = generation;
  missed_ = 0;
  silent_since_ = absl::InfiniteFuture();
  const bool wanted = spec_.interval > absl::ZeroDuration();
  next_ = wanted ? SteadyNow() + spec_.interval : absl::InfiniteFuture();
  next_metrics_ = SteadyNow();
}

bool Heartbeats::Send(ControlClient& process) {
  const absl::Time sent = SteadyNow();
  ControlCall call(spec_.interval);
  absl::StatusOr<v1::HeartbeatReply> reply;
  {
    const Attention::Interruptible wait(*attention_, Attention::Urgency::kNews,
                                        [&call] { call.Cancel(); });
    reply = process.Heartbeat(call);
  }
  if (!reply.ok() && call.cancelled()) return false;
  if (absl::IsUnimplemented(reply.status())) {
    LogWarning(absl::StrCat("device '", device_name_,
                            "' knows no heartbeat: that it hangs would not be noticed"));
    End();
    return false;
  }
  next_ = sent + spec_.interval;
  if (reply.ok() && reply->generation() == generation_) {
    missed_ = 0;
    silent_since_ = absl::InfiniteFuture();
    report_.HeartbeatAnswered(SteadyNow() - sent);
    if (SteadyNow() >= next_metrics_) FetchMetrics(process);
    return false;
  }
  if (++missed_ == 1) silent_since_ = sent;
  report_.HeartbeatMissed(missed_);
  return missed_ >= spec_.misses;
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
