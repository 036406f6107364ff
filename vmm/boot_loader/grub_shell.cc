#include "vmm/boot_loader/grub_shell.h"

#include <stddef.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "vmm/boot_loader/grub_condition.h"

namespace bulkhead::boot_loader {
namespace {

constexpr uint64_t kMaxScriptBytes = 1 << 20;
constexpr uint64_t kMaxBlsBytes = 64 << 10;
// Of a variable, and of a command with its words.
constexpr size_t kMaxValueBytes = 4 << 10;
constexpr size_t kMaxCommandBytes = 16 << 10;
constexpr size_t kMaxVariables = 512;
constexpr size_t kMaxTitleBytes = 256;
constexpr size_t kMaxWords = 1024;
constexpr size_t kMaxEntries = 1000;
constexpr size_t kMaxInitrds = 16;
constexpr size_t kMaxScripts = 64;
constexpr int kMaxSteps = 100'000;
constexpr int kMaxEntrySteps = 5'000;  // of one menu entry
constexpr int kMaxDepth = 32;

// Scripts ask for these, to learn what their GRUB can do.
constexpr const char* kFeatures[] = {
    "chainloader_bpb",  "ntldr",        "platform_search_hint", "default_font_path",
    "all_video_module", "menuentry_id", "menuentry_options",    "200_final",
    "nativedisk_cmd",   "timeout_style"};

// They name what to boot next time only. GRUB removes them from the disk, which we cannot: they
// would hold for ever.
constexpr absl::string_view kForOneBoot[] = {"next_entry", "prev_saved_entry", "initrdfail"};

bool IsOneOf(absl::string_view word, std::initializer_list<absl::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::string FolderOf(const std::string& path) {
  return path.substr(0, std::max<size_t>(path.rfind('/'), 1));
}

// As GRUB passes words on to Linux.
std::string LinuxArgument(const std::string& word) {
  const bool has_blank = absl::StrContains(word, ' ');
  std::string text = has_blank ? "\"" : "";
  for (const char c : word) {
    if (c == '\\' || c == '\'' || c == '"') text.push_back('\\');
    text.push_back(c);
  }
  return has_blank ? text + "\"" : text;
}

// The number of the partition in "hd0,gpt2", "hd1,msdos1" or "hd0,3"; 0: the whole disk; none: it
// is no such name.
std::optional<uint32_t> PartitionNumber(absl::string_view device) {
  if (!absl::StartsWith(device, "hd") && !absl::StartsWith(device, "vd")) return std::nullopt;
  const size_t comma = device.find(',');
  if (comma == absl::string_view::npos) return 0;
  absl::string_view number = device.substr(comma + 1);
  absl::ConsumePrefix(&number, "gpt");
  absl::ConsumePrefix(&number, "msdos");
  uint32_t partition = 0;
  if (!absl::SimpleAtoi(number, &partition)) return std::nullopt;
  return partition;
}

}  // namespace

GrubShell::GrubShell(absl::Span<const Volume> volumes, const FilePlace& config)
    : volumes_(volumes), config_(config) {
  for (const char* feature : kFeatures) Set(absl::StrCat("feature_", feature), "y");
  Set("grub_platform", "pc");
  Set("grub_cpu", "i386");
  // Ubuntu's cloud images boot without initrd, and with it only if a note on the disk says that the
  // boot before has failed. We write no such note: a kernel that needs its initrd would never boot.
  Set("initrdfail", "1");
  Set("root", config.volume->device);
  const std::string folder = absl::StrCat("(", config.volume->device, ")", FolderOf(config.path));
  Set("prefix", folder);
  Set("config_directory", folder);
  Set("config_file", absl::StrCat("(", config.volume->device, ")", config.path));
}

absl::Status GrubShell::RunConfig() {
  current_menu_ = &menu_;
  RETURN_IF_ERROR(Source(config_));
  if (steps_ < kMaxSteps) return absl::OkStatus();
  return absl::InvalidArgumentError("it does too much, or does not end");
}

absl::Status GrubShell::Source(const FilePlace& place) {
  if (scripts_.size() >= kMaxScripts) return absl::InvalidArgumentError("it reads too many files");
  ASSIGN_OR_RETURN(const std::string text,
                   place.volume->files->ReadFile(place.path, kMaxScriptBytes));
  ASSIGN_OR_RETURN(GrubBlock block, ParseGrubScript(text));
  scripts_.push_back(std::make_shared<const GrubBlock>(std::move(block)));
  Run(*scripts_.back());
  return absl::OkStatus();
}

bool GrubShell::Step() { return steps_ < kMaxSteps && ++steps_ < kMaxSteps; }

bool GrubShell::Run(const GrubBlock& block) {
  if (depth_ >= kMaxDepth) steps_ = kMaxSteps;
  ++depth_;
  bool result = true;
  for (const GrubStatement& statement : block) {
    if (!Step()) {
      result = false;
      break;
    }
    result = Run(statement);
    last_result_ = result;
  }
  --depth_;
  return result;
}

bool GrubShell::Run(const GrubStatement& statement) {
  using Kind = GrubStatement::Kind;
  switch (statement.kind) {
    case Kind::kCommand:
      return RunCommand(Expand(statement.words));
    case Kind::kIf:
      for (const GrubStatement::Branch& branch : statement.branches) {
        if (Run(branch.condition)) return Run(branch.body);
      }
      return Run(statement.body);
    case Kind::kWhile:
    case Kind::kUntil: {
      bool result = true;
      while (Step() && Run(statement.condition) == (statement.kind == Kind::kWhile)) {
        result = Run(statement.body);
      }
      return result;
    }
    case Kind::kFor:
      return RunFor(statement);
    case Kind::kFunction: {
      const Words name = Expand(statement.words);
      if (!name.empty()) functions_[name[0]] = &statement.body;
      return true;
    }
    case Kind::kMenuEntry:
    case Kind::kSubmenu:
      AddMenuEntry(statement);
      return true;
  }
  return false;
}

bool GrubShell::RunFor(const GrubStatement& statement) {
  const Words words = Expand(statement.words);
  bool result = true;
  for (size_t i = 1; i < words.size() && Step(); ++i) {
    Set(words[0], words[i]);
    result = Run(statement.body);
  }
  return result;
}

void GrubShell::AddMenuEntry(const GrubStatement& statement) {
  if (current_menu_ == nullptr || ++entries_ > kMaxEntries) return;
  const Words words = Expand(statement.words);
  MenuEntry entry;
  entry.body = &statement.body;
  for (size_t i = 0; i < words.size(); ++i) {
    absl::string_view word = words[i];
    if (absl::ConsumePrefix(&word, "--id=")) {
      entry.id = std::string(word.substr(0, kMaxTitleBytes));
    } else if (IsOneOf(word, {"--id", "--class", "--users", "--hotkey", "--source"})) {
      if (word == "--id" && i + 1 < words.size()) entry.id = words[i + 1].substr(0, kMaxTitleBytes);
      ++i;
    } else if (!absl::StartsWith(word, "--") && entry.title.empty()) {
      entry.title = std::string(word.substr(0, kMaxTitleBytes));
    }
  }
  if (statement.kind == GrubStatement::Kind::kSubmenu) {
    entry.is_submenu = true;
    entry.body = nullptr;
    std::vector<MenuEntry>* const outer = std::exchange(current_menu_, &entry.children);
    Run(statement.body);
    current_menu_ = outer;
  }
  current_menu_->push_back(std::move(entry));
}

bool GrubShell::AddBlsEntries() {
  if (current_menu_ == nullptr) current_menu_ = &menu_;
  std::vector<std::string> folders = {"/loader/entries", "/boot/loader/entries"};
  if (const std::string folder = Get("blsdir"); !folder.empty())
    folders.insert(folders.begin(), folder);
  std::vector<const Volume*> volumes = {Resolve("/").volume, config_.volume};
  for (const Volume* volume : volumes) {
    for (const std::string& folder : folders) {
      if (volume == nullptr || !absl::StartsWith(folder, "/")) continue;
      const absl::StatusOr<std::vector<std::string>> names = volume->files->ListFolder(folder);
      if (!names.ok()) continue;
      std::vector<std::string> ids;
      for (absl::string_view name : *names) {
        if (absl::ConsumeSuffix(&name, ".conf")) ids.emplace_back(name);
      }
      // The newest first.
      std::stable_sort(ids.begin(), ids.end(), [](const std::string& a, const std::string& b) {
        return CompareVersions(a, b) > 0;
      });
      bool found = false;
      for (const std::string& id : ids) {
        if (!Step() || ++entries_ > kMaxEntries) break;
        const absl::StatusOr<std::string> text =
            volume->files->ReadFile(absl::StrCat(folder, "/", id, ".conf"), kMaxBlsBytes);
        if (!text.ok()) continue;
        MenuEntry entry;
        entry.bls = std::make_shared<const BlsEntry>(ParseBlsEntry(id, *text));
        entry.bls_volume = volume;
        entry.id = id.substr(0, kMaxTitleBytes);
        entry.title =
            entry.bls->title.empty() ? entry.id : entry.bls->title.substr(0, kMaxTitleBytes);
        current_menu_->push_back(std::move(entry));
        found = true;
      }
      if (found) return true;
    }
  }
  return false;
}

bool GrubShell::RunFunction(const GrubBlock& body, const Words& words) {
  Words outer = std::exchange(arguments_, Words(words.begin() + 1, words.end()));
  const bool result = Run(body);
  arguments_ = std::move(outer);
  return result;
}

bool GrubShell::RunCommand(const Words& words) {
  if (words.empty()) return true;
  const std::string& name = words[0];
  if (const size_t equals = name.find('='); equals != std::string::npos && equals > 0) {
    Set(name.substr(0, equals), absl::string_view(name).substr(equals + 1));
    return true;
  }
  if (const auto function = functions_.find(name); function != functions_.end()) {
    return RunFunction(*function->second, words);
  }
  if (name == "set") {
    for (size_t i = 1; i < words.size(); ++i) {
      const size_t equals = words[i].find('=');
      if (equals == std::string::npos) continue;
      Set(words[i].substr(0, equals), absl::string_view(words[i]).substr(equals + 1));
    }
    return true;
  }
  if (name == "unset") {
    for (size_t i = 1; i < words.size(); ++i) variables_.erase(words[i]);
    return true;
  }
  if (name == "[" || name == "test") {
    Words arguments(words.begin() + 1, words.end());
    if (name == "[") {
      if (arguments.empty() || arguments.back() != "]") return false;
      arguments.pop_back();
    }
    return EvaluateGrubTest(arguments, [this](const std::string& path) { return FileSize(path); });
  }
  if (name == "search" || absl::StartsWith(name, "search.")) return Search(words);
  if (name == "load_env") return LoadEnvironment(words);
  if (IsOneOf(name, {"source", ".", "configfile"})) {
    const FilePlace place = words.size() < 2 ? FilePlace() : Resolve(words[1]);
    return place.volume != nullptr && depth_ < kMaxDepth && Source(place).ok();
  }
  if (name == "blscfg") return AddBlsEntries();
  if (IsOneOf(name, {"linux", "linux16", "linuxefi"})) return SetKernel(words);
  if (IsOneOf(name, {"initrd", "initrd16", "initrdefi"})) return SetInitrds(words);
  return !IsOneOf(name, {"false", "keystatus", "regexp", "probe", "hwmatch", "fwsetup"});
}

bool GrubShell::Search(const Words& words) {
  std::string variable = "root";
  std::string wanted;
  char by = words[0] == "search.fs_uuid" ? 'u' : words[0] == "search.fs_label" ? 'l' : 'f';
  for (size_t i = 1; i < words.size(); ++i) {
    absl::string_view word = words[i];
    if (absl::ConsumePrefix(&word, "--set=")) {
      variable = std::string(word);
    } else if (IsOneOf(word, {"--fs-uuid", "-u"})) {
      by = 'u';
    } else if (IsOneOf(word, {"--label", "--fs-label", "-l"})) {
      by = 'l';
    } else if (IsOneOf(word, {"--file", "-f"})) {
      by = 'f';
    } else if (word == "--hint") {
      ++i;
    } else if (!absl::StartsWith(word, "-") && wanted.empty()) {
      wanted = std::string(word);
    } else if (!absl::StartsWith(word, "-") && absl::StartsWith(words[0], "search.") && i == 2) {
      variable = std::string(word);
    }
  }
  for (const Volume& volume : volumes_) {
    if (!Step()) return false;
    const bool found = by == 'u'   ? absl::EqualsIgnoreCase(volume.files->uuid(), wanted)
                       : by == 'l' ? volume.files->label() == wanted
                                   : volume.files->FileSize(wanted).ok();
    if (!found || wanted.empty()) continue;
    Set(variable, volume.device);
    return true;
  }
  return false;
}

bool GrubShell::LoadEnvironment(const Words& words) {
  std::string path = absl::StrCat(Get("prefix"), "/grubenv");
  Words names;
  for (size_t i = 1; i < words.size(); ++i) {
    absl::string_view word = words[i];
    if (absl::ConsumePrefix(&word, "--file=")) {
      path = std::string(word);
    } else if (IsOneOf(word, {"-f", "--file"}) && i + 1 < words.size()) {
      path = words[++i];
    } else if (!absl::StartsWith(word, "-")) {
      names.emplace_back(word);
    }
  }
  const FilePlace place = Resolve(path);
  if (place.volume == nullptr) return false;
  const absl::StatusOr<std::string> text = place.volume->files->ReadFile(place.path, kMaxBlsBytes);
  if (!text.ok() || !absl::StartsWith(*text, "# GRUB Environment Block\n")) return false;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    const size_t equals = line.find('=');
    if (line.empty() || line[0] == '#' || equals == absl::string_view::npos) continue;
    const std::string name(line.substr(0, equals));
    const bool wanted = names.empty() || std::find(names.begin(), names.end(), name) != names.end();
    const bool for_one_boot =
        std::find(std::begin(kForOneBoot), std::end(kForOneBoot), name) != std::end(kForOneBoot);
    if (wanted && !for_one_boot) Set(name, line.substr(equals + 1));
  }
  return true;
}

bool GrubShell::SetKernel(const Words& words) {
  if (words.size() < 2) return false;
  kernel_ = Resolve(words[1]);
  if (kernel_->volume == nullptr) kernel_->path = words[1];
  initrds_.clear();
  std::vector<std::string> arguments;
  for (size_t i = 2; i < words.size(); ++i) arguments.push_back(LinuxArgument(words[i]));
  kernel_arguments_ = absl::StrJoin(arguments, " ");
  return kernel_->volume != nullptr && kernel_->volume->files->FileSize(kernel_->path).ok();
}

bool GrubShell::SetInitrds(const Words& words) {
  initrds_.clear();
  for (size_t i = 1; i < std::min(words.size(), kMaxInitrds + 1); ++i) {
    FilePlace place = Resolve(words[i]);
    if (place.volume == nullptr) place.path = words[i];
    initrds_.push_back(std::move(place));
  }
  return true;
}

// ---- Words and variables

std::string GrubShell::Get(absl::string_view name) const {
  size_t number = 0;
  if (name == "?") return last_result_ ? "0" : "1";
  if (name == "#") return absl::StrCat(arguments_.size());
  if (name == "@" || name == "*") return absl::StrJoin(arguments_, " ");
  if (absl::SimpleAtoi(name, &number)) {
    return number >= 1 && number <= arguments_.size() ? arguments_[number - 1] : "";
  }
  const auto found = variables_.find(name);
  return found == variables_.end() ? "" : found->second;
}

void GrubShell::Set(const std::string& name, absl::string_view value) {
  if (variables_.size() >= kMaxVariables && variables_.count(name) == 0) return;
  variables_[name] = std::string(value.substr(0, kMaxValueBytes));
}

GrubShell::Words GrubShell::Expand(const std::vector<GrubWord>& words) const {
  Words expanded;
  size_t bytes = 0;
  for (const GrubWord& word : words) {
    std::string text;
    bool is_word = false;  // also an empty one in quotes
    for (const GrubSegment& segment : word) {
      const std::string value = segment.is_variable ? Get(segment.text) : segment.text;
      bytes += value.size();
      if (bytes > kMaxCommandBytes || expanded.size() >= kMaxWords) return expanded;
      if (!segment.is_variable || segment.is_quoted) {
        text += value;
        is_word |= segment.is_quoted || !value.empty();
        continue;
      }
      for (const char c : value) {
        if (!absl::ascii_isspace(static_cast<unsigned char>(c))) {
          text.push_back(c);
          is_word = true;
        } else if (is_word) {
          expanded.push_back(std::exchange(text, ""));
          is_word = false;
        }
      }
    }
    if (is_word) expanded.push_back(std::move(text));
  }
  return expanded;
}

std::string GrubShell::ExpandVariables(absl::string_view text) const {
  std::string expanded;
  while (!text.empty() && expanded.size() < kMaxCommandBytes) {
    if (text[0] != '$') {
      expanded.push_back(text[0]);
      text.remove_prefix(1);
      continue;
    }
    text.remove_prefix(1);
    const bool has_brace = absl::ConsumePrefix(&text, "{");
    const auto end = std::find_if_not(text.begin(), text.end(), [](char c) {
      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
    });
    const absl::string_view name = text.substr(0, static_cast<size_t>(end - text.begin()));
    expanded += Get(name);
    text.remove_prefix(name.size());
    if (has_brace) absl::ConsumePrefix(&text, "}");
  }
  return expanded;
}

// ---- Files

const Volume* GrubShell::FindVolume(absl::string_view device) const {
  for (const Volume& volume : volumes_) {
    if (volume.device == device) return &volume;
  }
  // The disk may have had another number, or been converted.
  const std::optional<uint32_t> partition = PartitionNumber(device);
  for (const Volume& volume : volumes_) {
    if (partition == volume.partition) return &volume;
  }
  return nullptr;
}

FilePlace GrubShell::Resolve(absl::string_view path) const {
  std::string device = Get("root");
  if (absl::ConsumePrefix(&path, "(")) {
    const size_t end = path.find(')');
    if (end == absl::string_view::npos) return {};
    device = std::string(path.substr(0, end));
    path.remove_prefix(end + 1);
  }
  if (!absl::StartsWith(path, "/")) return {};
  return {.volume = FindVolume(device), .path = std::string(path), .part = {}};
}

std::optional<uint64_t> GrubShell::FileSize(const std::string& path) const {
  const FilePlace place = Resolve(path);
  if (place.volume == nullptr) return std::nullopt;
  const absl::StatusOr<uint64_t> size = place.volume->files->FileSize(place.path);
  if (!size.ok()) return std::nullopt;
  return *size;
}

absl::Status GrubShell::CheckFile(const FilePlace& place, absl::string_view what) const {
  if (place.volume == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("its ", what, " ", place.path, " is on no file system that can be read"));
  }
  const absl::StatusOr<uint64_t> size = place.volume->files->FileSize(place.path);
  if (size.ok() && *size > 0) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("its ", what, " (", place.volume->device, ")", place.path, " ",
                   size.ok() ? "is empty" : absl::string_view(size.status().message())));
}

absl::StatusOr<BootPlan> GrubShell::Plan(const MenuEntry& entry) const {
  if (entry.plan != nullptr) return *entry.plan;
  BootPlan plan;
  plan.title = entry.title;
  if (entry.bls != nullptr) {
    plan.kernel = {entry.bls_volume, entry.bls->linux, {}};
    for (const std::string& path : entry.bls->initrds) {
      for (const absl::string_view each :
           absl::StrSplit(ExpandVariables(path), ' ', absl::SkipEmpty())) {
        if (plan.initrds.size() < kMaxInitrds) {
          plan.initrds.push_back({entry.bls_volume, std::string(each), {}});
        }
      }
    }
    plan.command_line =
        std::string(absl::StripAsciiWhitespace(ExpandVariables(entry.bls->options)));
  } else {
    if (entry.body == nullptr) return absl::NotFoundError("it is a submenu without entries");
    GrubShell shell = *this;
    shell.current_menu_ = nullptr;
    shell.steps_ = kMaxSteps - kMaxEntrySteps;
    shell.Run(*entry.body);
    if (!shell.kernel_.has_value()) return absl::NotFoundError("it loads no Linux");
    plan.kernel = *std::move(shell.kernel_);
    plan.initrds = std::move(shell.initrds_);
    plan.command_line = std::move(shell.kernel_arguments_);
  }
  RETURN_IF_ERROR(CheckFile(plan.kernel, "kernel"));
  for (const FilePlace& initrd : plan.initrds) RETURN_IF_ERROR(CheckFile(initrd, "initrd"));
  return plan;
}

}  // namespace bulkhead::boot_loader
