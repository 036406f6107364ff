#include "vmm/config/link_switch.h"

#include <errno.h>
#include <unistd.h>

#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "proto/net_link.h"

namespace bulkhead::vmm {
namespace {

std::string ReadAll(int fd) {
  char bytes[16];
  const ssize_t size = read(fd, bytes, sizeof(bytes));
  return size < 0 ? "" : std::string(bytes, static_cast<size_t>(size));
}

TEST(LinkSwitchTest, EachProcessHearsTheStateAndEachChange) {
  LinkSwitch link;
  EXPECT_TRUE(link.up());
  EXPECT_EQ(link.Set(false), absl::OkStatus()) << "before the first process";
  const int first = link.ForNextProcess();
  EXPECT_EQ(ReadAll(first), std::string(1, kLinkDown));
  EXPECT_EQ(link.Set(true), absl::OkStatus());
  EXPECT_EQ(link.Set(true), absl::OkStatus());
  EXPECT_EQ(link.Set(false), absl::OkStatus());
  EXPECT_EQ(ReadAll(first), std::string({kLinkUp, kLinkDown}));
  EXPECT_FALSE(link.up());
  EXPECT_EQ(ReadAll(link.ForNextProcess()), std::string(1, kLinkDown));
}

TEST(LinkSwitchTest, AProcessThatDoesNotReadCannotBlock) {
  LinkSwitch link;
  link.ForNextProcess();
  absl::Status status;
  for (int i = 0; i < 1'000'000 && status.ok(); ++i) status = link.Set(!link.up());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  const bool up = link.up();
  EXPECT_EQ(ReadAll(link.ForNextProcess()), std::string(1, up ? kLinkUp : kLinkDown));
}

}  // namespace
}  // namespace bulkhead::vmm
