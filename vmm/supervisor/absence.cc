#include "vmm/supervisor/absence.h"

#include "absl/memory/memory.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {
namespace {

// How often to check whether the guest uses the device by now.
constexpr absl::Duration kUseInterval = absl::Milliseconds(500);
// How often to check whether a back end still is waited for.
constexpr absl::Duration kBackEndInterval = absl::Milliseconds(50);

}  // namespace

absl::StatusOr<std::unique_ptr<Absence>> Absence::Create(Options options) {
  ASSIGN_OR_RETURN(DeviceClock* const clock, DeviceClock::Get());
  std::unique_ptr<Absence> absence = absl::WrapUnique(new Absence(*clock, std::move(options)));
  clock->Add(*absence);
  return absence;
}

Absence::~Absence() { clock_.Remove(*this); }

void Absence::Begin(absl::Time since) {
  clock_.Change(*this, [&] { since_ = since; });
}

void Absence::End() { Begin(absl::InfiniteFuture()); }

absl::Time Absence::Look(absl::Time now, DeviceClock::Demands& /*demands*/) {
  const bool awaits_back_end = options_.awaits_back_end();
  if (!awaits_back_end) {
    back_end_since_ = absl::InfiniteFuture();
  } else if (back_end_since_ == absl::InfiniteFuture()) {
    back_end_since_ = now;
  }
  const bool due = IsDue(since_, now) || IsDue(back_end_since_, now);
  const bool hold = due && options_.is_used();
  if (hold != held_) {
    held_ = hold;
    options_.hold(hold);
  }
  // Nobody tells when a back end is there again. Once nothing is held for it any more, a look
  // beside heartbeats is soon enough.
  if (awaits_back_end && now < back_end_since_ + options_.timeout) return now + kBackEndInterval;
  if (due) return hold ? since_ + options_.timeout : now + kUseInterval;
  return now < since_ + options_.before_hold ? since_ + options_.before_hold
                                             : absl::InfiniteFuture();
}

}  // namespace bulkhead::vmm
