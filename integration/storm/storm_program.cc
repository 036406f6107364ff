// One storm, with its report as JSON on standard output. What tools/bench storm runs.

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/standard_descriptors.h"
#include "integration/storm/storm.h"

ABSL_FLAG(std::string, guest, "bare-metal", "bare-metal or linux");
ABSL_FLAG(
    std::string, way, "kill",
    "kill (SIGKILL), stop (SIGSTOP), all (SIGKILL to all) or upgrade (of the disk's service)");
ABSL_FLAG(uint64_t, kills, 100, "device processes to hit");
ABSL_FLAG(bool, spare, false, "with a warm spare for each device");
ABSL_FLAG(absl::Duration, min_interval, absl::ZeroDuration(), "between two, at random");
ABSL_FLAG(absl::Duration, max_interval, absl::Milliseconds(40), "between two, at random");
ABSL_FLAG(absl::Duration, time_limit, absl::Minutes(20), "then it has failed");
ABSL_FLAG(uint64_t, seed, 1, "of the moments");
ABSL_FLAG(std::string, memory, "64M", "of a bare-metal guest");
ABSL_FLAG(std::string, hugepages, "none", "of which it is made: none, thp, 2M");
ABSL_FLAG(std::vector<std::string>, guest_options, {}, "of disk_storm: depth=4,indirect=1");

namespace bulkhead::integration {
namespace {

std::string Quoted(const std::string& text) {
  return absl::StrCat(
      "\"",
      absl::StrReplaceAll(
          text,
          {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}, {"\r", ""}, {"\t", " "}, {"\x1b", ""}}),
      "\"");
}

std::string ToJson(const StormReport& report) {
  const auto ms = [](absl::Duration time) {
    return absl::StrCat(absl::ToDoubleMilliseconds(time));
  };
  const auto list = [&](const std::vector<absl::Duration>& times) {
    return absl::StrJoin(times, ", ", [&](std::string* out, absl::Duration time) {
      absl::StrAppend(out, ms(time));
    });
  };
  return absl::StrCat("{\"kills\": ", report.kills, ", \"requests\": ", report.requests,
                      ", \"failed\": ", report.failed, ", \"wrong_bytes\": ", report.wrong_bytes,
                      ", \"seconds\": ", absl::ToDoubleSeconds(report.duration),
                      ", \"longest_stall_ms\": ", ms(report.longest_stall),
                      ", \"first_completions_ms\": [", list(report.first_completions),
                      "], \"recoveries_ms\": [", list(report.recoveries), "], \"problems\": [",
                      absl::StrJoin(report.problems, ", ",
                                    [](std::string* out, const std::string& problem) {
                                      absl::StrAppend(out, Quoted(problem));
                                    }),
                      "]}");
}

// "storm: 1200 of 5000 processes hit, 41 s": on a terminal a line that changes, else one every half
// minute.
class ShowProgress {
 public:
  explicit ShowProgress(uint64_t kills) : kills_(kills) {}
  ~ShowProgress() {
    if (terminal_ && shown_) fputs("\r\x1b[K", stderr);
  }
  void operator()(uint64_t hits) {
    const absl::Time now = absl::Now();
    if (now < next_) return;
    next_ = now + (terminal_ ? absl::Milliseconds(500) : absl::Seconds(30));
    fprintf(stderr, "%sstorm: %lu of %lu processes hit, %.0f s%s", terminal_ ? "\r" : "", hits,
            kills_, absl::ToDoubleSeconds(now - begin_), terminal_ ? "\x1b[K" : "\n");
    shown_ = true;
  }

 private:
  const uint64_t kills_;
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  const absl::Time begin_ = absl::Now();
  absl::Time next_ = absl::InfinitePast();
  bool shown_ = false;
};

int Main() {
  StormOptions options;
  options.kills = absl::GetFlag(FLAGS_kills);
  options.spare = absl::GetFlag(FLAGS_spare);
  options.time_limit = absl::GetFlag(FLAGS_time_limit);
  options.guest_options = absl::GetFlag(FLAGS_guest_options);
  options.memory = absl::GetFlag(FLAGS_memory);
  options.hugepages = absl::GetFlag(FLAGS_hugepages);
  options.killer.min_interval = absl::GetFlag(FLAGS_min_interval);
  options.killer.max_interval = absl::GetFlag(FLAGS_max_interval);
  options.killer.seed = absl::GetFlag(FLAGS_seed);
  const std::string way = absl::GetFlag(FLAGS_way);
  if (way == "kill" || way == "stop") {
    // Else a spare would be hit as well, which nobody waits for.
    options.killer.serving = "disk0";
    options.killer.way = way == "stop" ? KillerOptions::Way::kStop : KillerOptions::Way::kKill;
  } else if (way == "all") {
    options.killer.way = KillerOptions::Way::kKillAll;
  } else if (way == "upgrade") {
    options.killer.way = KillerOptions::Way::kUpgrade;
  } else {
    fprintf(stderr, "storm: --way=%s: kill, stop, all or upgrade\n", way.c_str());
    return 2;
  }
  const std::string guest = absl::GetFlag(FLAGS_guest);
  if (guest != "linux" && guest != "bare-metal") {
    fprintf(stderr, "storm: --guest=%s: linux or bare-metal\n", guest.c_str());
    return 2;
  }
  ShowProgress progress(options.kills);
  options.on_progress = [&progress](uint64_t hits) { progress(hits); };
  const absl::StatusOr<StormReport> report =
      guest == "linux" ? RunLinuxStorm(options) : RunBareMetalStorm(options);
  if (!report.ok()) {
    fprintf(stderr, "storm: %s\n", report.status().ToString().c_str());
    return 1;
  }
  printf("%s\n", ToJson(*report).c_str());
  return report->good() ? 0 : 1;
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  bulkhead::OpenStandardDescriptors();
  absl::SetProgramUsageMessage("Kills device processes under a guest that checks every byte.");
  absl::ParseCommandLine(argc, argv);
  return bulkhead::integration::Main();
}
