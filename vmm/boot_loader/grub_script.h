#ifndef BULKHEAD_VMM_BOOT_LOADER_GRUB_SCRIPT_H_
#define BULKHEAD_VMM_BOOT_LOADER_GRUB_SCRIPT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bulkhead::boot_loader {

// A piece of a word: text, or a variable whose value comes in its place.
struct GrubSegment {
  std::string text;  // or the variable's name
  bool is_variable = false;
  bool is_quoted = false;  // a value is not split into words
};
using GrubWord = std::vector<GrubSegment>;

struct GrubStatement;
using GrubBlock = std::vector<GrubStatement>;

struct GrubStatement {
  enum class Kind {
    kCommand,    // words
    kIf,         // branches, body: else
    kWhile,      // condition, body
    kUntil,      // condition, body
    kFor,        // words: the variable, its values; body
    kFunction,   // words: its name; body
    kMenuEntry,  // words: title and options; body
    kSubmenu,    // words: title and options; body
  };
  struct Branch;

  Kind kind = Kind::kCommand;
  std::vector<GrubWord> words;
  std::vector<Branch> branches;
  GrubBlock condition;
  GrubBlock body;
};

struct GrubStatement::Branch {
  GrubBlock condition;
  GrubBlock body;
};

// Parses GRUB's script language (GRUB manual, "Writing full configuration files directly").
// Errors: InvalidArgument, with the line: it is no such script, or too deeply nested.
absl::StatusOr<GrubBlock> ParseGrubScript(absl::string_view text);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_GRUB_SCRIPT_H_
