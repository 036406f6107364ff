#ifndef BULKHEAD_TOOLS_VMCTL_TESTING_VMCTL_FIXTURE_H_
#define BULKHEAD_TOOLS_VMCTL_TESTING_VMCTL_FIXTURE_H_

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/testing/files.h"
#include "gtest/gtest.h"
#include "tools/vmctl/testing/child_process.h"

namespace bulkhead::vmctl {

inline constexpr char kVmctl[] = "tools/vmctl/vmctl";
inline constexpr char kFakeVm[] = "tools/vmctl/testing/fake_vm";
inline constexpr char kScenario[] = "tools/vmctl/testdata/web.textproto";

// Sends a command to a fake VM (testing/fake_vm.cc), and waits until it has obeyed.
inline void Tell(ChildProcess& vm, const std::string& command) {
  vm.Write(command + "\n");
  vm.WaitForOutput("obeyed\n");
}

// It ends every stream with UNAVAILABLE, removes its socket and is gone.
inline void End(ChildProcess& vm) {
  vm.Write("end\n");
  EXPECT_EQ(vm.WaitForEnd(), "exit code 0");
}

struct Result {
  std::string exit;  // "exit code 0"
  std::string output;
  std::string error;
};

// One runtime directory with as many fake VMs as the test starts.
class VmctlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    runtime_ = MakeTempFolder();
    ASSERT_EQ(mkdir(Directory().c_str(), 0700), 0);
  }
  void TearDown() override { std::filesystem::remove_all(runtime_); }

  std::string Directory() const { return absl::StrCat(runtime_, "/bulkhead"); }
  std::string SocketPath(const std::string& name) const {
    return absl::StrCat(Directory(), "/", name, ".sock");
  }

  std::unique_ptr<ChildProcess> StartVm(const std::string& name = "web") {
    std::unique_ptr<ChildProcess> vm =
        ChildProcess::Start({kFakeVm, SocketPath(name), kScenario}, {});
    vm->WaitForOutput("ready\n");
    return vm;
  }

  // A vmm that was killed leaves its socket.
  void LeaveStaleSocket(const std::string& name) {
    const std::unique_ptr<ChildProcess> vm = StartVm(name);
    vm->Signal(SIGKILL);
    vm->WaitForEnd();
    ASSERT_TRUE(std::filesystem::exists(SocketPath(name)));
  }

  std::vector<std::string> Environment() const {
    return {absl::StrCat("BULKHEAD_RUNTIME_DIR=", Directory()), "TZ=UTC", "TERM=xterm",
            "PATH=/usr/bin:/bin"};
  }

  std::unique_ptr<ChildProcess> StartVmctl(
      std::vector<std::string> arguments,
      ChildProcess::Streams streams = ChildProcess::Streams::kPipes) {
    arguments.insert(arguments.begin(), kVmctl);
    return ChildProcess::Start(arguments, Environment(), streams);
  }

  Result Run(const std::vector<std::string>& arguments) {
    const std::unique_ptr<ChildProcess> vmctl = StartVmctl(arguments);
    vmctl->CloseInput();
    Result result;
    result.exit = vmctl->WaitForEnd();
    const std::vector<std::pair<std::string, std::string>> names = {{Directory(), "$DIRECTORY"}};
    result.output = absl::StrReplaceAll(vmctl->output(), names);
    result.error = absl::StrReplaceAll(vmctl->error(), names);
    return result;
  }

  // It succeeds, prints what testdata/`golden` has, and has nothing else to say.
  void ExpectGolden(const std::vector<std::string>& arguments, const std::string& golden) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit, "exit code 0") << result.error;
    EXPECT_EQ(result.error, "");
    ExpectText(result.output, golden);
  }

  void ExpectText(const std::string& text, const std::string& golden) {
    if (const char* directory = getenv("UPDATE_GOLDENS")) {
      std::ofstream(absl::StrCat(directory, "/", golden)) << text;
      return;
    }
    EXPECT_EQ(text, ReadFile(absl::StrCat("tools/vmctl/testdata/", golden))) << golden;
  }

  // It ends with that code, prints nothing, and says one line of why.
  void ExpectError(const std::vector<std::string>& arguments, int code, const std::string& line) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit, absl::StrCat("exit code ", code));
    EXPECT_EQ(result.output, "");
    EXPECT_EQ(result.error, absl::StrCat("vmctl: error: ", line, "\n"));
  }

  std::string runtime_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TESTING_VMCTL_FIXTURE_H_
