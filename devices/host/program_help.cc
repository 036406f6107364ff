#include "devices/host/program_help.h"

#include <algorithm>
#include <initializer_list>
#include <map>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace bulkhead::devices {

namespace {

// One of `flags` is given, before any "--".
bool Has(int argc, char** argv, std::initializer_list<absl::string_view> flags) {
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--") return false;
    if (std::find(flags.begin(), flags.end(), argument) != flags.end()) return true;
  }
  return false;
}

}  // namespace

bool AsksForHelp(int argc, char** argv) { return Has(argc, argv, {"--help", "-help", "-h"}); }

bool AsksForVersion(int argc, char** argv) { return Has(argc, argv, {"--version", "-version"}); }

std::string ProgramHelp(absl::string_view program, absl::string_view introduction) {
  const absl::string_view name = program.substr(program.rfind('/') + 1);  // npos + 1 is 0
  std::string text = absl::StrCat(name, ": ", introduction, "\n\n",
                                  "Not started by hand: vmm starts it for a device of its "
                                  "configuration, for example\n\n"
                                  "  devices {\n    name: \"my-device\"\n    binary: \"",
                                  name, "\"\n    arg: \"--flag=value\"\n  }\n\nFlags:\n");
  // absl's own --help cannot be told to leave out its internal flags and exits with 1.
  std::map<std::string, const absl::CommandLineFlag*> flags;
  for (const auto& [flag_name, flag] : absl::GetAllFlags()) {
    if (absl::StrContains(flag->Filename(), "devices/")) {
      flags.emplace(std::string(flag_name), flag);
    }
  }
  for (const auto& [flag_name, flag] : flags) {
    absl::StrAppend(&text, "  --", flag_name, " (default: \"", flag->DefaultValue(), "\")\n      ",
                    flag->Help(), "\n");
  }
  if (flags.empty()) absl::StrAppend(&text, "  none\n");
  return text;
}

}  // namespace bulkhead::devices
