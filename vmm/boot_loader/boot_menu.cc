#include "vmm/boot_loader/boot_menu.h"

#include <fnmatch.h>
#include <stddef.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "vmm/boot_loader/bls_entry.h"
#include "vmm/boot_loader/grub_shell.h"
#include "vmm/boot_loader/unified_kernel.h"

namespace bulkhead::boot_loader {
namespace {

constexpr const char* kGrubConfigs[] = {"/boot/grub/grub.cfg", "/grub/grub.cfg",
                                        "/boot/grub2/grub.cfg", "/grub2/grub.cfg"};
constexpr char kUnifiedKernels[] = "/EFI/Linux";
constexpr const char* kLoaderFolders[] = {"/loader/entries", "/boot/loader/entries",
                                          kUnifiedKernels};
constexpr uint64_t kMaxLoaderConfigBytes = 64 << 10;
constexpr size_t kMaxPatternBytes = 256;
constexpr size_t kMaxLoaderEntries = 1000;
constexpr size_t kMaxLines = 64;

void Log(std::vector<std::string>& log, std::string line) {
  if (log.size() < kMaxLines) log.push_back(std::move(line));
}

// "a>b" into "a" and "b". GRUB writes a '>' in a title as ">>".
std::vector<std::string> SplitPath(absl::string_view text) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '>') {
      parts.back().push_back(text[i]);
    } else if (i + 1 < text.size() && text[i + 1] == '>') {
      parts.back().push_back('>');
      ++i;
    } else {
      parts.emplace_back();
    }
  }
  return parts;
}

const MenuEntry* FindInMenu(const std::vector<MenuEntry>& menu, const std::string& name) {
  for (const MenuEntry& entry : menu) {
    if (!name.empty() && (entry.id == name || entry.title == name)) return &entry;
  }
  size_t number = 0;
  if (absl::SimpleAtoi(name, &number) && number < menu.size()) return &menu[number];
  return nullptr;
}

// An entry with its place in the menu: "1>0".
struct Place {
  std::string number;
  const MenuEntry* entry;
};

void ListEntries(const std::vector<MenuEntry>& menu, const std::string& prefix,
                 std::vector<Place>& out) {
  for (size_t i = 0; i < menu.size(); ++i) {
    const std::string number = absl::StrCat(prefix, i);
    if (menu[i].is_submenu) {
      ListEntries(menu[i].children, absl::StrCat(number, ">"), out);
    } else {
      out.push_back({number, &menu[i]});
    }
  }
}

// As GRUB understands $default; null: there is none.
const MenuEntry* FindByPath(const std::vector<MenuEntry>& menu, absl::string_view path) {
  const std::vector<MenuEntry>* current = &menu;
  const MenuEntry* entry = nullptr;
  for (const std::string& part : SplitPath(path)) {
    entry = FindInMenu(*current, part);
    if (entry == nullptr) return nullptr;
    current = &entry->children;
  }
  // The first one of a submenu.
  while (entry->is_submenu && !entry->children.empty()) entry = &entry->children.front();
  return entry;
}

const MenuEntry* FindByPart(const std::vector<Place>& entries, absl::string_view part) {
  for (const Place& place : entries) {
    if (absl::StrContains(place.entry->title, part) || absl::StrContains(place.entry->id, part)) {
      return place.entry;
    }
  }
  return nullptr;
}

// Chooses from a menu. `shell` knows what its entries do.
absl::StatusOr<BootPlan> Choose(const GrubShell& shell, const std::vector<MenuEntry>& menu,
                                const std::string& default_entry, absl::string_view wanted,
                                std::vector<std::string>& log) {
  std::vector<Place> entries;
  ListEntries(menu, "", entries);
  const std::string name = wanted.empty() ? default_entry : std::string(wanted);
  const MenuEntry* chosen = FindByPath(menu, name);
  if (chosen == nullptr && !wanted.empty()) chosen = FindByPart(entries, wanted);
  // What GRUB does.
  if (chosen == nullptr && wanted.empty()) chosen = FindByPath(menu, "0");
  if (chosen != nullptr) {
    absl::StatusOr<BootPlan> plan = shell.Plan(*chosen);
    if (plan.ok()) return plan;
    Log(log, absl::StrCat("  entry \"", chosen->title, "\": ", plan.status().message()));
  }
  for (const Place& place : entries) {
    if (place.entry == chosen) continue;
    absl::StatusOr<BootPlan> plan = shell.Plan(*place.entry);
    if (plan.ok() && wanted.empty()) return plan;
    Log(log, absl::StrCat("  entry ", place.number, ", \"", place.entry->title, "\"",
                          place.entry->id.empty() ? "" : absl::StrCat(" (", place.entry->id, ")"),
                          plan.ok() ? "" : absl::StrCat(": ", plan.status().message())));
  }
  return absl::NotFoundError("no entry boots");
}

// ---- systemd-boot

// Adds the unified kernel images of a volume.
void AddUnifiedKernels(const Volume& volume, std::vector<MenuEntry>& menu,
                       std::vector<std::string>& log) {
  const absl::StatusOr<std::vector<std::string>> names = volume.files->ListFolder(kUnifiedKernels);
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    if (!absl::EndsWithIgnoreCase(name, ".efi") || menu.size() >= kMaxLoaderEntries) continue;
    const FilePlace image = {&volume, absl::StrCat(kUnifiedKernels, "/", name), {}};
    absl::StatusOr<BootPlan> plan = ReadUnifiedKernel(image);
    if (!plan.ok()) {
      Log(log, absl::StrCat("(", volume.device, ")", image.path, " ", plan.status().message()));
      continue;
    }
    MenuEntry entry;
    entry.title = plan->title;
    entry.id = name;
    entry.plan = std::make_shared<const BootPlan>(*std::move(plan));
    menu.push_back(std::move(entry));
  }
}

// The number of the entry that /loader/loader.conf names, by a pattern for the names of its files;
// "": none.
std::string DefaultOfLoader(const Volume& volume, const std::vector<MenuEntry>& menu) {
  const absl::StatusOr<std::string> text =
      volume.files->ReadFile("/loader/loader.conf", kMaxLoaderConfigBytes);
  if (!text.ok()) return "";
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!absl::ConsumePrefix(&line, "default") || line.empty() || line.size() > kMaxPatternBytes) {
      continue;
    }
    const std::string pattern(absl::StripAsciiWhitespace(line));
    for (size_t i = 0; i < menu.size(); ++i) {
      const std::string file =
          menu[i].plan != nullptr ? menu[i].id : absl::StrCat(menu[i].id, ".conf");
      for (const std::string& name : {file, menu[i].id}) {
        if (fnmatch(pattern.c_str(), name.c_str(), FNM_CASEFOLD) == 0) return absl::StrCat(i);
      }
    }
  }
  return "";
}

// By entries of the Boot Loader Specification, type #1, and by unified kernel images, which are
// type #2: the newest first, whatever its type. FailedPrecondition: there is neither.
absl::StatusOr<BootPlan> ChooseAsSystemdBoot(absl::Span<const Volume> volumes, const Volume& volume,
                                             absl::string_view wanted,
                                             std::vector<std::string>& log) {
  GrubShell shell(volumes, {&volume, "/loader", {}});
  shell.AddBlsEntries();
  std::vector<MenuEntry> menu = shell.menu();
  AddUnifiedKernels(volume, menu, log);
  const bool has_folder =
      std::any_of(std::begin(kLoaderFolders), std::end(kLoaderFolders),
                  [&](const char* folder) { return volume.files->ListFolder(folder).ok(); });
  if (menu.empty() && !has_folder) return absl::FailedPreconditionError("no entries");
  std::stable_sort(menu.begin(), menu.end(), [](const MenuEntry& a, const MenuEntry& b) {
    return CompareVersions(a.id, b.id) > 0;
  });
  Log(log, absl::StrCat("(", volume.device, ")", absl::StrJoin(kLoaderFolders, ", "), ": ",
                        menu.size(), " entries"));
  return Choose(shell, menu, DefaultOfLoader(volume, menu), wanted, log);
}

}  // namespace

absl::StatusOr<BootPlan> FindBootPlan(absl::Span<const Volume> volumes, absl::string_view wanted,
                                      std::vector<std::string>& log) {
  for (const Volume& volume : volumes) {
    bool has_config = false;
    for (const char* path : kGrubConfigs) {
      if (!volume.files->FileSize(path).ok()) continue;
      has_config = true;
      GrubShell shell(volumes, {&volume, path, {}});
      const absl::Status status = shell.RunConfig();
      Log(log, absl::StrCat("(", volume.device, ")", path, ": ", shell.menu().size(), " entries",
                            status.ok() ? "" : absl::StrCat("; ", status.message())));
      absl::StatusOr<BootPlan> plan =
          Choose(shell, shell.menu(), shell.Get("default"), wanted, log);
      if (plan.ok()) return plan;
    }
    absl::StatusOr<BootPlan> plan = ChooseAsSystemdBoot(volumes, volume, wanted, log);
    if (plan.ok()) return plan;
    has_config = has_config || !absl::IsFailedPrecondition(plan.status());
    if (!has_config) {
      Log(log, absl::StrCat("(", volume.device, "): no ", absl::StrJoin(kGrubConfigs, ", "), ", ",
                            absl::StrJoin(kLoaderFolders, ", ")));
    }
  }
  if (wanted.empty()) return absl::NotFoundError("nothing to boot");
  return absl::NotFoundError(absl::StrCat("no entry \"", wanted, "\" that can be booted"));
}

}  // namespace bulkhead::boot_loader
