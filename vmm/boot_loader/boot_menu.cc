#include "vmm/boot_loader/boot_menu.h"

#include <stddef.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vmm/boot_loader/grub_shell.h"

namespace bulkhead::boot_loader {
namespace {

constexpr const char* kGrubConfigs[] = {"/boot/grub/grub.cfg", "/grub/grub.cfg",
                                        "/boot/grub2/grub.cfg", "/grub2/grub.cfg"};
constexpr const char* kBlsFolders[] = {"/loader/entries", "/boot/loader/entries"};
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

// Chooses from the menu that `shell` has.
absl::StatusOr<BootPlan> Choose(const GrubShell& shell, absl::string_view wanted,
                                std::vector<std::string>& log) {
  std::vector<Place> entries;
  ListEntries(shell.menu(), "", entries);
  const std::string name = wanted.empty() ? shell.Get("default") : std::string(wanted);
  const MenuEntry* chosen = FindByPath(shell.menu(), name);
  if (chosen == nullptr && !wanted.empty()) chosen = FindByPart(entries, wanted);
  // What GRUB does.
  if (chosen == nullptr && wanted.empty()) chosen = FindByPath(shell.menu(), "0");
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

}  // namespace

absl::StatusOr<BootPlan> FindBootPlan(absl::Span<const Volume> volumes, absl::string_view wanted,
                                      std::vector<std::string>& log) {
  for (const Volume& volume : volumes) {
    bool has_config = false;
    for (const char* path : kGrubConfigs) {
      if (!volume.files->FileSize(path).ok()) continue;
      has_config = true;
      GrubShell shell(volumes, {&volume, path});
      const absl::Status status = shell.RunConfig();
      Log(log, absl::StrCat("(", volume.device, ")", path, ": ", shell.menu().size(), " entries",
                            status.ok() ? "" : absl::StrCat("; ", status.message())));
      absl::StatusOr<BootPlan> plan = Choose(shell, wanted, log);
      if (plan.ok()) return plan;
    }
    for (const char* folder : kBlsFolders) {
      if (!volume.files->ListFolder(folder).ok()) continue;
      has_config = true;
      GrubShell shell(volumes, {&volume, "/loader"});
      const bool found = shell.AddBlsEntries();
      Log(log, absl::StrCat("(", volume.device, ")", folder, ": ", found ? "" : "no entries"));
      absl::StatusOr<BootPlan> plan = Choose(shell, wanted, log);
      if (plan.ok()) return plan;
      break;
    }
    if (!has_config) {
      Log(log, absl::StrCat("(", volume.device, "): no ", absl::StrJoin(kGrubConfigs, ", "), ", ",
                            absl::StrJoin(kBlsFolders, ", ")));
    }
  }
  return absl::NotFoundError("nothing to boot");
}

}  // namespace bulkhead::boot_loader
