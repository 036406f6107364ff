#include "vmm/console/recent_output.h"

namespace bulkhead::vmm {
namespace {

constexpr char kEscape = '\x1b';
constexpr char kEnquiry = '\x05';
constexpr char kBell = '\x07';

bool IsBetween(char c, char first, char last) { return c >= first && c <= last; }

// The size of the control string (ECMA-48: OSC, DCS) whose contents begin at `start`: up to BEL or
// ESC \. All that is left, if it does not end.
size_t EndOfString(absl::string_view text, size_t start) {
  for (size_t i = start; i < text.size(); ++i) {
    if (text[i] == kBell) return i + 1;
    if (text[i] == kEscape) return i + 1 < text.size() && text[i + 1] == '\\' ? i + 2 : i;
  }
  return text.size();
}

// `text` begins with ESC. How long the sequence is if a terminal may answer it, else 0.
size_t SizeOfQuestion(absl::string_view text) {
  if (text.size() < 2) return 0;
  if (text[1] == 'Z') return 2;  // DECID
  if (text[1] == ']' || text[1] == 'P') {
    // Titles and the like go, too: nothing that is missed in a replay.
    return EndOfString(text, 2);
  }
  if (text[1] != '[') return 0;
  size_t i = 2;
  while (i < text.size() && IsBetween(text[i], 0x20, 0x3f)) ++i;
  if (i == text.size()) return 0;
  // DSR, DA, DECREQTPARM, window reports, DECRQM.
  const char final = text[i];
  const bool is_question = final == 'n' || final == 'c' || final == 'x' || final == 't' ||
                           (final == 'p' && text[i - 1] == '$') ||
                           (final == 'u' && text[2] == '?') || (final == 'q' && text[2] == '>');
  return is_question ? i + 1 : 0;
}

}  // namespace

void RecentOutput::Append(absl::string_view bytes) {
  if (bytes.size() > kMaxBytes) {
    bytes.remove_prefix(bytes.size() - kMaxBytes);
    is_cut_ = true;
  }
  if (bytes_.size() + bytes.size() > 2 * kMaxBytes) {
    bytes_.erase(0, bytes_.size() + bytes.size() - kMaxBytes);
    is_cut_ = true;
  }
  bytes_.append(bytes.data(), bytes.size());
}

std::string RecentOutput::Replay() const {
  absl::string_view text = bytes_;
  bool is_cut = is_cut_;
  if (text.size() > kMaxBytes) {
    text.remove_prefix(text.size() - kMaxBytes);
    is_cut = true;
  }
  if (const size_t line = text.find('\n'); is_cut && line != absl::string_view::npos) {
    text.remove_prefix(line + 1);
  }
  std::string replay;
  replay.reserve(text.size());
  while (!text.empty()) {
    const size_t special = text.find_first_of(absl::string_view("\x1b\x05", 2));
    replay.append(text.data(), special == absl::string_view::npos ? text.size() : special);
    if (special == absl::string_view::npos) break;
    text.remove_prefix(special);
    const size_t dropped = text[0] == kEnquiry ? 1 : SizeOfQuestion(text);
    if (dropped == 0) replay.push_back(text[0]);
    text.remove_prefix(dropped == 0 ? 1 : dropped);
  }
  return replay;
}

}  // namespace bulkhead::vmm
