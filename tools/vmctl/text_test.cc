#include "tools/vmctl/text.h"

#include "gtest/gtest.h"
#include "tools/vmctl/table.h"

namespace bulkhead::vmctl {
namespace {

TEST(PrintableTest, ControlCharactersCannotReachTheTerminal) {
  EXPECT_EQ(Printable("\x1b]0;title\x07\n\x7f"), "\\x1b]0;title\\x07\\x0a\\x7f");
  // U+009B, the one-character form of ESC [.
  EXPECT_EQ(Printable("a\xc2\x9b"
                      "2Jb"),
            "a\\x9b2Jb");
}

TEST(PrintableTest, OtherTextStaysAsItIs) {
  EXPECT_EQ(Printable("plain ~ text"), "plain ~ text");
  EXPECT_EQ(Printable("Gr\xc3\xb6\xc3\x9f"
                      "e \xc2\xb5s"),
            "Gr\xc3\xb6\xc3\x9f"
            "e \xc2\xb5s");
}

TEST(FormatSpanTest, HasTheUnitsThatMatter) {
  EXPECT_EQ(FormatSpan(absl::Seconds(-1)), "0s");
  EXPECT_EQ(FormatSpan(absl::Microseconds(85)), "85us");
  EXPECT_EQ(FormatSpan(absl::Milliseconds(999)), "999ms");
  EXPECT_EQ(FormatSpan(absl::Milliseconds(1000)), "1.0s");
  EXPECT_EQ(FormatSpan(absl::Milliseconds(59999)), "59.9s");
  EXPECT_EQ(FormatSpan(absl::Seconds(60)), "1m 0s");
  EXPECT_EQ(FormatSpan(absl::Seconds(3599)), "59m 59s");
  EXPECT_EQ(FormatSpan(absl::Seconds(15120)), "4h 12m");
  EXPECT_EQ(FormatSpan(absl::Hours(76)), "3d 4h");
}

TEST(FormatBytesTest, TakesTheLargestUnitThatIsExact) {
  EXPECT_EQ(FormatBytes(0), "0 bytes");
  EXPECT_EQ(FormatBytes(1), "1 byte");
  EXPECT_EQ(FormatBytes(1000), "1000 bytes");
  EXPECT_EQ(FormatBytes(16 << 10), "16 KiB");
  EXPECT_EQ(FormatBytes(1536 << 20), "1536 MiB");
  EXPECT_EQ(FormatBytes(uint64_t{2} << 30), "2 GiB");
}

TEST(StateNameTest, AStateOfANewerVmmIsANumber) {
  EXPECT_EQ(StateName(v1::Device::RUNNING), "RUNNING");
  EXPECT_EQ(StateName(static_cast<v1::Device::State>(77)), "STATE-77");
  EXPECT_EQ(StateName(static_cast<v1::VmStatus::State>(77)), "STATE-77");
}

TEST(TableTest, ColumnsAreAsWideAsTheirWidestCell) {
  Table table({"NAME", "N", "REASON"});
  table.Add({std::string("a"), std::string("100"), std::string()});
  table.Add({std::string("longer"), std::string(), std::string("because")});
  EXPECT_EQ(table.Text(0, false),
            "NAME    N    REASON\n"
            "a       100  -\n"
            "longer  -    because\n");
}

TEST(TableTest, ANarrowTerminalCutsLinesInsteadOfWrappingThem) {
  Table table({"NAME", "REASON"});
  table.Add({std::string("a"), std::string("gr\xc3\xb6\xc3\x9f"
                                           "er")});
  EXPECT_EQ(table.Text(10, false),
            "NAME  REAS\n"
            "a     gr\xc3\xb6\xc3\x9f\n");
  EXPECT_EQ(table.Text(3, false), "NAM\na\n");
}

TEST(TableTest, ColoursDoNotCountAsWidth) {
  Table table({"STATE", "X"});
  table.Add({{std::string("FAILED"), Color::kRed}, std::string("1")});
  EXPECT_EQ(table.Text(0, true),
            "STATE   X\n"
            "\x1b[1;31mFAILED\x1b[0m  1\n");
}

}  // namespace
}  // namespace bulkhead::vmctl
