#include "tools/vmctl/testing/exposition_format.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kGood[] =
    "# HELP a_total Things.\n# TYPE a_total counter\na_total{k=\"v\"} 2\na_total{k=\"w\\\"\"} 3\n"
    "# TYPE b gauge\nb NaN\n"
    "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";

TEST(ExpositionFormatTest, AValidTextHasNoProblems) {
  EXPECT_THAT(ProblemsOfExposition(kGood), IsEmpty());
  EXPECT_THAT(ProblemsOfExposition(""), Contains(HasSubstr("no sample")));
}

TEST(ExpositionFormatTest, WhatAServerRefusesIsFound) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a 1\n", "not of the family"},
      {"# TYPE a_total counter\na_total 1\na_total 2\n", "a second time"},
      {"# TYPE a_total counter\na_total 1\n# TYPE b gauge\nb 1\n# TYPE a_total counter\n",
       "stands in two places"},
      {"# TYPE a counter\na 1\n", "a is a counter"},
      {"# TYPE a_total gauge\na_total 1\n", "a_total is a gauge"},
      {"# TYPE a_total counter\na_total -1\n", "negative"},
      {"# TYPE b gauge\nb{k=\"v} 1\n", "no sample"},
      {"# TYPE b gauge\nb one\n", "no sample"},
      {"# TYPE b gauge\nb 1", "cut"},
      {"# HELP b text\nb 1\n", "b"},
      {"# TYPE b gauge\n# TYPE b gauge\nb 1\n", "again"},
      {"# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
       "do not rise"},
      {"# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 1\nh_count 2\n", "not complete"},
  };
  for (const auto& [text, problem] : cases) {
    EXPECT_THAT(ProblemsOfExposition(text), Contains(HasSubstr(problem))) << text;
  }
}

}  // namespace
}  // namespace bulkhead::vmctl
