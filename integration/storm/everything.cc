#include "integration/storm/everything.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "integration/vhost_user/back_ends.h"

ABSL_FLAG(uint64_t, kills, 18, "processes to kill or stop");
ABSL_FLAG(uint64_t, seed, 1, "of the order and the moments");
ABSL_FLAG(bool, json, false, "print the report as a line of JSON");

namespace bulkhead::integration {
namespace {

std::string Json(const EverythingReport& report) {
  const auto parts = [](std::string* out, const DisturbedPart& part) {
    absl::StrAppend(out, "\"", part.name, "\": {\"kills\": ", part.kills,
                    ", \"hangs\": ", part.hangs, ", \"pauses\": ", part.pauses, "}");
  };
  const auto figures = [](std::string* out, const std::pair<std::string, uint64_t>& figure) {
    absl::StrAppend(out, "\"", absl::StrReplaceAll(figure.first, {{" ", "_"}}),
                    "\": ", figure.second);
  };
  return absl::StrCat("{\"seconds\": ", absl::ToDoubleSeconds(report.duration), ", \"parts\": {",
                      absl::StrJoin(report.parts, ", ", parts), "}, ",
                      absl::StrJoin(report.figures, ", ", figures), "}\n");
}

std::string Table(const EverythingReport& report) {
  std::string table = absl::StrFormat("%-22s %8s %8s %8s\n", "part", "killed", "hung", "paused");
  DisturbedPart sum;
  const auto add_row = [&table](absl::string_view name, const DisturbedPart& part) {
    absl::StrAppendFormat(&table, "%-22s %8d %8d %8d\n", name, part.kills, part.hangs, part.pauses);
  };
  for (const DisturbedPart& part : report.parts) {
    add_row(part.name, part);
    sum.kills += part.kills;
    sum.hangs += part.hangs;
    sum.pauses += part.pauses;
  }
  add_row("all", sum);
  absl::StrAppendFormat(&table, "\nin %.0f s:\n", absl::ToDoubleSeconds(report.duration));
  for (const auto& [name, value] : report.figures) {
    absl::StrAppendFormat(&table, "%-40s %14d\n", name, value);
  }
  return table;
}

std::string Quoted(const std::string& path) { return absl::StrCat("'", path, "'"); }

void RunCommand(const std::string& command) { EXPECT_EQ(system(command.c_str()), 0) << command; }

}  // namespace

uint64_t EverythingKills() { return absl::GetFlag(FLAGS_kills); }
uint64_t EverythingSeed() { return absl::GetFlag(FLAGS_seed); }

void EverythingReport::Print() const {
  fputs((absl::GetFlag(FLAGS_json) ? Json(*this) : Table(*this)).c_str(), stdout);
  fflush(stdout);
}

std::string StormDevice(absl::string_view name, absl::string_view binary, absl::string_view rest) {
  return absl::StrCat("devices { name: \"", name, "\" binary: \"", binary, "\" ", rest,
                      "\n  restart { max_crashes: -1 min_backoff: \"0\" max_backoff: \"0\" }",
                      " heartbeat { interval: \"400ms\" misses: 10 } access_timeout: \"120s\" }\n");
}

std::string StormConsole() {
  return StormDevice("console", "uart16550",
                     "resources { name: \"console\" console { standard_streams: true } }");
}

// --disk has no word for the number of ends.
std::string StormQcowDisk(absl::string_view name, const std::string& image) {
  return StormDevice(name, "vhost_user",
                     absl::StrCat("arg: \"--type=blk\" arg: \"--relay\" resources { name: ",
                                  "\"back_end\" ", QcowBackEnd(image), " }"));
}

// As --share makes it.
std::string StormShare(absl::string_view name, const std::string& folder, absl::string_view tag) {
  const std::string program = VirtiofsdPath();
  const std::string args =
      program == kRustVirtiofsd
          ? absl::StrCat("arg: \"--sandbox=none\" arg: \"--modcaps=-mknod:-setfcap\" ",
                         "arg: \"--inode-file-handles=never\" arg: \"--log-level=warn\" ",
                         "arg: \"--shared-dir=", folder, "\"")
          : absl::StrCat("arg: \"-f\" arg: \"-o\" arg: \"sandbox=chroot,",
                         "modcaps=-mknod:-setfcap,log_level=warn,source=", folder, "\"");
  return StormDevice(
      name, "vhost_user",
      absl::StrCat("arg: \"--type=fs\" arg: \"--relay\" arg: \"--tag=", tag,
                   "\" resources { name: \"back_end\" back_end {\n  binary: \"", program,
                   "\" serves_folder: true arg: \"--fd={socket}\" arg: \"--rlimit-nofile=0\" ",
                   args, " file { path: \"", folder, "\" } } }"));
}

void MakeFile(const std::string& path, uint64_t bytes) {
  const UniqueFd file(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_TRUE(file.ok()) << path;
  EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(bytes)), 0) << path;
}

void MakeQcow(const std::string& path, uint64_t bytes) {
  RunCommand(absl::StrCat("qemu-img create -q -f qcow2 ", Quoted(path), " ", bytes));
}

void ReadQcow(const std::string& image, const std::string& raw) {
  RunCommand(absl::StrCat("qemu-img convert -f qcow2 -O raw ", Quoted(image), " ", Quoted(raw)));
}

}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  absl::ParseCommandLine(argc, argv);
  return RUN_ALL_TESTS();
}
