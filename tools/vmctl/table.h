#ifndef BULKHEAD_TOOLS_VMCTL_TABLE_H_
#define BULKHEAD_TOOLS_VMCTL_TABLE_H_

#include <stddef.h>

#include <string>
#include <vector>

#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {

// Rows under headings, each column as wide as its widest cell. Thread-compatible.
class Table {
 public:
  struct Cell {
    // Cells of printable ASCII line up; an empty one is shown as "-".
    Cell(std::string cell_text, Color cell_color = Color::kNone)  // NOLINT: a row is a list
        : text(std::move(cell_text)), color(cell_color) {}

    std::string text;
    Color color;
  };

  explicit Table(std::vector<std::string> headings) : headings_(std::move(headings)) {}

  // As many cells as there are headings.
  void Add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }

  // One line for the headings and one a row. `width`: longer lines are cut to so many columns;
  // 0: never. `color`: whether cells have their colours.
  std::string Text(size_t width, bool color) const;

 private:
  std::vector<std::string> headings_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TABLE_H_
