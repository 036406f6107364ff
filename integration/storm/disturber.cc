#include "integration/storm/disturber.h"

#include <signal.h>
#include <stdio.h>

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "base/steady_time.h"
#include "base/testing/processes.h"
#include "gtest/gtest.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kSlice = absl::Milliseconds(10);
// A back end that dies again and again is started after 10 s at most.
constexpr absl::Duration kSuccessorTimeout = absl::Minutes(2);
constexpr absl::Duration kLongestPause = absl::Seconds(2);
constexpr uint64_t kStopsPerPause = 3;  // the others last
// Parts without a process that works, before the next hit: on a slow host, more of them would keep
// each other away for minutes.
constexpr size_t kMostAway = 3;

}  // namespace

Disturber::Disturber(std::vector<DisturbedPart> parts, const Options& options)
    : parts_(std::move(parts)), options_(options), random_(options.seed) {
  thread_ = std::thread([this] { Run(); });
}

void Disturber::Stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

void Disturber::Run() {
  std::vector<Turn> turns;
  // Half of the parts begin with a kill, the others with a stop.
  for (size_t i = 0; i < parts_.size(); ++i) turns.push_back({.part = i, .number = random_() % 2});
  while (hits_ < options_.limit && !stopping_ && !testing::Test::HasFailure()) {
    std::shuffle(turns.begin(), turns.end(), random_);
    for (Turn& turn : turns) {
      if (hits_ >= options_.limit) break;
      if (!Sleep(Between(options_.min_interval, options_.max_interval))) break;
      Hit(turn);
    }
  }
  Continue(/*all=*/true);
}

void Disturber::Hit(Turn& turn) {
  DisturbedPart& part = parts_[turn.part];
  const absl::Time deadline = SteadyNow() + kSuccessorTimeout;
  while (CountAway() >= kMostAway) {
    if (SteadyNow() > deadline) {
      ADD_FAILURE() << "processes are not replaced";
      return;
    }
    if (!Sleep(kSlice)) return;
  }
  pid_t pid = part.find();
  while (pid == kNoProcess || pid == turn.last_hit) {
    if (SteadyNow() > deadline) {
      ADD_FAILURE() << part.name << ": no process comes";
      return;
    }
    if (!Sleep(kSlice)) return;
    pid = part.find();
  }
  absl::StatusOr<PidFd> process = PidFd::Open(pid);
  if (!process.ok()) return;  // it has just ended
  const bool kills = part.may_die && turn.number % 2 == 0;
  const bool pauses = !part.is_supervised || turn.number / 2 % kStopsPerPause == kStopsPerPause - 1;
  ++turn.number;
  if (!process->Signal(kills ? SIGKILL : SIGSTOP).ok()) return;
  // After a pause the same process goes on.
  turn.last_hit = kills || !pauses ? pid : 0;
  if (turn.last_hit != 0) away_[turn.part] = pid;
  ++hits_;
  fprintf(stderr, "storm: %s: %s, process %d, %s\n", absl::FormatTime(absl::Now()).c_str(),
          part.name.c_str(), pid,
          kills    ? "is killed"
          : pauses ? "stands still for a while"
                   : "stands still");
  if (kills) {
    ++part.kills;
  } else if (pauses) {
    ++part.pauses;
    const absl::Time end = SteadyNow() + Between(absl::Milliseconds(100), kLongestPause);
    standing_.push_back({.end = end, .process = *std::move(process)});
  } else {
    ++part.hangs;
  }
}

size_t Disturber::CountAway() {
  std::erase_if(away_, [this](const auto& away) {
    const pid_t pid = parts_[away.first].find();
    return pid != kNoProcess && pid != away.second;
  });
  return away_.size();
}

bool Disturber::Sleep(absl::Duration time) {
  const absl::Time end = SteadyNow() + time;
  while (!stopping_) {
    Continue(/*all=*/false);
    const absl::Duration left = end - SteadyNow();
    if (left <= absl::ZeroDuration()) return true;
    absl::SleepFor(std::min(left, kSlice));
  }
  return false;
}

void Disturber::Continue(bool all) {
  const absl::Time now = SteadyNow();
  std::erase_if(standing_, [&](const Standing& standing) {
    if (!all && now < standing.end) return false;
    // Its supervisor may have ended it.
    standing.process.Signal(SIGCONT).IgnoreError();
    return true;
  });
}

absl::Duration Disturber::Between(absl::Duration least, absl::Duration most) {
  std::uniform_real_distribution<double> seconds(absl::ToDoubleSeconds(least),
                                                 absl::ToDoubleSeconds(most));
  return absl::Seconds(seconds(random_));
}

}  // namespace bulkhead::integration
