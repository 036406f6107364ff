#include "vmm/library_logs.h"

#include <fcntl.h>
#include <grpc/support/log.h>
#include <unistd.h>

#include <string>

#include "base/log.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "google/protobuf/stubs/logging.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

// Each message of a library is one line of the log, whatever text it quotes.
TEST(LibraryLogsTest, MessagesOfLibrariesAreLoggedAndCannotForgeLines) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd read_end(fds[0]);
  const UniqueFd write_end(fds[1]);
  const UniqueFd saved(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
  ASSERT_EQ(dup2(write_end.get(), STDERR_FILENO), STDERR_FILENO);
  InitLog("vmm", LogLevel::kInfo);
  RouteLibraryLogs();
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);  // as grpc_init() does
  gpr_log(GPR_ERROR, "it said: %s", "\x1b[2J\nvmm: error: all is lost");
  GOOGLE_LOG(ERROR) << "no UTF-8: \xff\nvmm: lies";
  dup2(saved.get(), STDERR_FILENO);
  char text[1000];
  const ssize_t n = read(read_end.get(), text, sizeof(text));
  ASSERT_GT(n, 0);
  EXPECT_EQ(std::string(text, static_cast<size_t>(n)),
            "vmm: warning: gRPC: it said: \\x1b[2J\\x0avmm: error: all is lost\n"
            "vmm: warning: protobuf: no UTF-8: \\xff\\x0avmm: lies\n");
}

}  // namespace
}  // namespace bulkhead::vmm
