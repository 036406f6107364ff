#include "vmm/console/recent_output.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

std::string ReplayOf(const std::string& text) {
  RecentOutput output;
  output.Append(text);
  return output.Replay();
}

TEST(RecentOutputTest, AllIsThereUntilItIsTooMuch) {
  RecentOutput output;
  EXPECT_EQ(output.Replay(), "");
  output.Append("half a line");
  output.Append(", and the rest\n");
  EXPECT_EQ(output.Replay(), "half a line, and the rest\n");
}

TEST(RecentOutputTest, TheLastLinesAreKept) {
  for (const size_t piece : {1u, 7u, 4096u, 300'000u}) {
    std::string text;
    for (int i = 0; text.size() < 300'000; ++i) absl::StrAppend(&text, "line ", i, "\n");
    RecentOutput output;
    for (size_t i = 0; i < text.size(); i += piece) output.Append(text.substr(i, piece));
    const std::string replay = output.Replay();
    EXPECT_LE(replay.size(), RecentOutput::kMaxBytes) << piece;
    EXPECT_GT(replay.size(), RecentOutput::kMaxBytes - 20) << piece;
    EXPECT_EQ(replay, text.substr(text.size() - replay.size())) << piece;
    EXPECT_EQ(replay.substr(0, 5), "line ") << piece;
  }
}

TEST(RecentOutputTest, OneEndlessLineIsKeptAsWell) {
  EXPECT_EQ(ReplayOf(std::string(200'000, 'x')), std::string(RecentOutput::kMaxBytes, 'x'));
}

TEST(RecentOutputTest, WhatATerminalAnswersIsLeftOut) {
  EXPECT_EQ(ReplayOf("a\x1b[6nb\x1b[cc\x1b[>0cd\x05"
                     "e\x1bZf\x1b[18tg\x1b[?2026$ph\x1b[?ui\x1b[>qj"),
            "abcdefghij");
  EXPECT_EQ(ReplayOf("a\x1b]11;?\x07"
                     "b\x1b]10;?\x1b\\c\x1bP$qm\x1b\\d\x1b]0;never ends"),
            "abcd");
}

TEST(RecentOutputTest, OtherSequencesAreKept) {
  for (const std::string text : {"\x1b[1;31mred\x1b[0m", "\x1b[2J\x1b[H", "\x1b[?25l", "\x1b",
                                 "\x1b[", "\x1b[12", "\x1b[u", "\x1b[2 q", "\0337", "\x1b[!p"}) {
    EXPECT_EQ(ReplayOf(text), text);
  }
}

}  // namespace
}  // namespace bulkhead::vmm
