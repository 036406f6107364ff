// vmctl as operators and scripts see it: the real binary against fake VMs, by its output and exit
// code. What it prints is in testdata/*.golden; to write those anew:
//   bazel build //tools/vmctl:vmctl_test && cd bazel-bin/tools/vmctl/vmctl_test.runfiles/bulkhead
//   && UPDATE_GOLDENS=$WORKSPACE/tools/vmctl/testdata TEST_TMPDIR=/tmp tools/vmctl/vmctl_test

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/vmctl/testing/child_process.h"
#include "tools/vmctl/testing/exposition_format.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kVmctl[] = "tools/vmctl/vmctl";
constexpr char kFakeVm[] = "tools/vmctl/testing/fake_vm";
constexpr char kScenario[] = "tools/vmctl/testdata/web.textproto";
constexpr char kEndingEvent[] =
    "event time { seconds: 1767268902 } vm_state { state: ENDING reason: \"the guest powered off\" "
    "}";

std::string Contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Tells a fake VM (testing/fake_vm.cc), and waits until it has obeyed.
void Tell(ChildProcess& vm, const std::string& command) {
  vm.Write(command + "\n");
  vm.WaitForOutput("obeyed\n");
}

// It ends every stream with UNAVAILABLE, removes its socket and is gone.
void End(ChildProcess& vm) {
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
    // Sockets in it must fit into 107 bytes.
    std::string pattern = absl::StrCat(::testing::TempDir(), "/vXXXXXX");
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    runtime_ = pattern;
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
    EXPECT_EQ(text, Contents(absl::StrCat("tools/vmctl/testdata/", golden))) << golden;
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

// --- What commands print ---------------------------------------------------------------------

TEST_F(VmctlTest, AnswersAreThoseOfTheGoldens) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  ExpectGolden({"status"}, "status.golden");
  ExpectGolden({"devices"}, "devices.golden");
  ExpectGolden({"device", "show", "console"}, "device_show_console.golden");
  ExpectGolden({"device", "show", "disk0"}, "device_show_disk0.golden");
  ExpectGolden({"device", "show", "rng0"}, "device_show_rng0.golden");
  ExpectGolden({"pci"}, "pci.golden");
  ExpectGolden({"pci", "-v"}, "pci_verbose.golden");
  ExpectGolden({"events"}, "events.golden");
  ExpectGolden({"metrics"}, "metrics.golden");
  EXPECT_THAT(ProblemsOfExposition(Run({"metrics"}).output), ::testing::IsEmpty());
  ExpectGolden({"list", "--timeout=1m"}, "list.golden");
}

TEST_F(VmctlTest, HelpIsThatOfTheGoldens) {
  ExpectGolden({"--help"}, "help.golden");
  ExpectGolden({"help"}, "help.golden");
  ExpectGolden({"device", "--help"}, "help.golden");
  ExpectGolden({"device", "restart", "--help"}, "help_device_restart.golden");
  ExpectGolden({"help", "device", "restart"}, "help_device_restart.golden");
  ExpectGolden({"console", "-h"}, "help_console.golden");
}

TEST_F(VmctlTest, JsonIsThatOfTheGoldens) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  ExpectGolden({"status", "--json"}, "status.json.golden");
  ExpectGolden({"device", "show", "old", "--json"}, "device_show.json.golden");
  ExpectGolden({"device", "restart", "old", "--json"}, "device_show.json.golden");
  ExpectGolden({"metrics", "--json"}, "metrics.json.golden");
  ExpectGolden({"list", "--json", "--timeout=1m"}, "list.json.golden");
}

TEST_F(VmctlTest, JsonOfDevicesHasAllOfThemAndThatOfPciItsOwn) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::string devices = Run({"devices", "--json"}).output;
  EXPECT_THAT(devices, StartsWith("{\n \"devices\": [\n"));
  EXPECT_THAT(devices, HasSubstr("\"name\": \"console\""));
  const std::string pci = Run({"pci", "--json"}).output;
  EXPECT_THAT(pci, StartsWith("{\n \"devices\": [\n"));
  EXPECT_THAT(pci, ::testing::Not(HasSubstr("\"name\": \"console\"")));
  EXPECT_THAT(pci, HasSubstr("\"name\": \"old\""));
}

TEST_F(VmctlTest, JsonOfEventsIsOneObjectALine) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::string lines = Run({"events", "--json"}).output;
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 5) << lines;
  EXPECT_THAT(lines, StartsWith("{\"sequence\":\"7\",\"snapshot\":{\"status\":{\"name\":\"web\","));
  EXPECT_THAT(lines, HasSubstr("\n{\"sequence\":\"13\",\"missed\":{\"count\":\"2\"},"
                               "\"time\":\"2026-01-01T12:01:41Z\"}\n"));
}

// --- What commands ask the VM for ---------------------------------------------------------------

TEST_F(VmctlTest, CommandsCallWhatTheyAreNamedAfter) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const struct {
    std::vector<std::string> arguments;
    std::string call;
    std::string output;
  } kCases[] = {
      {{"pause"}, "Pause {}", "VM \"web\" is paused\n"},
      {{"resume"}, "Resume {}", "VM \"web\" runs again\n"},
      {{"shutdown"}, "Shutdown {}", "pressed the power button of VM \"web\"\n"},
      {{"wake"}, "Wake {}", "woke VM \"web\"\n"},
      {{"stop", "--no-wait"}, "Stop {}", "VM \"web\" ends\n"},
      {{"device", "stop", "disk0"},
       "StopDevice {name: \"disk0\"}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "start", "disk0"},
       "StartDevice {name: \"disk0\"}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "reset", "disk0"},
       "ResetDevice {name: \"disk0\"}",
       "reset: disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "restart", "old"},
       "RestartDevice {name: \"old\"}",
       "old is STOPPED: stopped by a client\n"},
      {{"device", "restart", "disk0", "--discard-state", "--binary", "/opt/2.0/virtio_blk"},
       "RestartDevice {name: \"disk0\" binary: \"/opt/2.0/virtio_blk\" discard_state: true}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
  };
  for (const auto& test : kCases) {
    const Result result = Run(test.arguments);
    EXPECT_EQ(result.exit, "exit code 0") << result.error;
    EXPECT_EQ(result.output, test.output);
    EXPECT_EQ(result.error, "");
    vm->WaitForOutput(absl::StrCat("call ", test.call, "\n"));
  }
}

TEST_F(VmctlTest, ARelativeBinaryIsOneOfTheCallersFolder) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  EXPECT_EQ(Run({"device", "restart", "disk0", "--binary", "build/virtio_blk"}).exit,
            "exit code 0");
  vm->WaitForOutput(
      absl::StrCat("binary: \"", std::filesystem::current_path().string(), "/build/virtio_blk\""));
}

TEST_F(VmctlTest, TheVersionNamesContractAndBuild) {
  const Result result = Run({"--version"});
  EXPECT_EQ(result.exit, "exit code 0");
  EXPECT_THAT(result.output,
              ::testing::MatchesRegex("vmctl .Bulkhead. [0-9.]+, contract [0-9]+, build .*\n"));
}

// --- What goes wrong
// ------------------------------------------------------------------------------

TEST_F(VmctlTest, WrongUsageIsExitCode2) {
  ExpectError({"stats"}, 2, "\"stats\" is not a command; see vmctl --help");
  ExpectError({"device", "show"}, 2,
              "device show: give the device's NAME; see vmctl device show --help");
  ExpectError({"completion", "zsh"}, 2, "completion: \"zsh\" is no shell that it knows; bash is");
  ExpectError({"help", "nonsense"}, 2, "\"nonsense\" is not a command; see vmctl --help");
}

TEST_F(VmctlTest, WithoutAVmItSaysWhereItLooked) {
  const std::string none =
      "no VM is running: no process listens on a control socket in $DIRECTORY; start one with vmm, "
      "or give --socket PATH";
  ExpectError({"status"}, 3, none);
  LeaveStaleSocket("killed");
  ExpectError({"status"}, 3, none);
  ExpectError({"status", "--vm", "killed"}, 3, absl::StrCat("no VM \"killed\" is running: ", none));
  ExpectError(
      {"status", "--socket", SocketPath("killed")}, 3,
      "no process listens on $DIRECTORY/killed.sock any more: its vmm ended without removing "
      "it");
  ExpectError({"status", "--socket", SocketPath("missing")}, 3,
              "there is no socket $DIRECTORY/missing.sock");
  const Result list = Run({"list"});
  EXPECT_EQ(list.exit, "exit code 0");
  EXPECT_EQ(list.output, "");
  EXPECT_EQ(list.error,
            "vmctl: no VM is running: no process listens on a control socket in $DIRECTORY\n");
  EXPECT_EQ(Run({"list", "--json"}).output, "{\n \"vms\": []\n}\n");
}

TEST_F(VmctlTest, TheOnlyVmThatRunsIsMeant) {
  LeaveStaleSocket("killed");
  const std::unique_ptr<ChildProcess> vm = StartVm("web");
  EXPECT_THAT(Run({"status"}).output, HasSubstr("web"));
}

TEST_F(VmctlTest, OfSeveralVmsOneMustBeNamed) {
  const std::unique_ptr<ChildProcess> web = StartVm("web");
  const std::unique_ptr<ChildProcess> db = StartVm("db");
  ExpectError({"pause"}, 2, "2 VMs are running; give one of them with --vm NAME: db, web");
  ExpectError({"pause", "--vm", "mail"}, 3, "no VM \"mail\" is running; there is: db, web");
  EXPECT_EQ(Run({"pause", "--vm", "web"}).output, "VM \"web\" is paused\n");
  EXPECT_EQ(Run({"--vm=db", "pause"}).output, "VM \"db\" is paused\n");
  EXPECT_EQ(Run({"pause", "--socket", SocketPath("web")}).output, "VM \"web\" is paused\n");
  web->WaitForOutput("call Pause {}\ncall Pause {}\n");
  db->WaitForOutput("call Pause {}\n");
  const Result list = Run({"list", "--timeout=1m"});
  EXPECT_EQ(std::count(list.output.begin(), list.output.end(), '\n'), 3) << list.output;
}

TEST_F(VmctlTest, AnUnknownDeviceIsExitCode4AndToldWhichThereAre) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  for (const char* action : {"show", "restart", "reset", "stop", "start"}) {
    ExpectError({"device", action, "disk9"}, 4,
                "VM \"web\": there is no device \"disk9\"; there is: console, disk0, rng0, old");
  }
  ExpectError({"console", "disk0"}, 4, "VM \"web\": device \"disk0\" is no console");
}

TEST_F(VmctlTest, WhatTheVmRefusesIsExitCode1WithItsText) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  Tell(*vm, "refuse 9 the new process is not fit: it has other BARs");
  const Result result = Run({"device", "restart", "disk0"});
  EXPECT_EQ(result.exit, "exit code 1");
  EXPECT_EQ(result.error,
            "vmctl: error: VM \"web\": the new process is not fit: it has other BARs\n");
}

TEST_F(VmctlTest, AnOlderVmmIsExitCode1AndSaysSo) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  Tell(*vm, "refuse 12 ");
  const Result result = Run({"pause"});
  EXPECT_EQ(result.exit, "exit code 1");
  EXPECT_THAT(result.error, HasSubstr("VM \"web\" does not know this command"));
}

TEST_F(VmctlTest, WhatTheVmSaysTooLateIsExitCode5WithItsText) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  Tell(*vm, "refuse 4 disk0 is not RUNNING yet; ask again");
  ExpectError({"device", "restart", "disk0"}, 5, "VM \"web\": disk0 is not RUNNING yet; ask again");
}

TEST_F(VmctlTest, AVmThatDoesNotAnswerIsExitCode5) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  Tell(*vm, "hang");
  for (const char* command : {"status", "pause", "devices", "metrics", "console"}) {
    ExpectError({command, "--timeout", "50ms"}, 5,
                "VM \"web\" did not answer within 50ms; what was asked for may still happen. "
                "`vmctl status` tells how it is, --timeout sets how long to wait");
  }
  const Result list = Run({"list", "--timeout=50ms"});
  EXPECT_EQ(list.exit, "exit code 0");
  EXPECT_THAT(list.output, HasSubstr("\nweb   NO ANSWER  -"));
}

TEST_F(VmctlTest, AVmmThatIsStoppedDoesNotAnswer) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  vm->Signal(SIGSTOP);
  EXPECT_EQ(Run({"status", "--timeout", "50ms"}).exit, "exit code 5");
  EXPECT_EQ(Run({"events", "--timeout", "50ms"}).exit, "exit code 5");
  EXPECT_EQ(Run({"events", "--follow", "--timeout", "50ms"}).exit, "exit code 5");
}

TEST_F(VmctlTest, AVmThatEndsMeanwhileIsExitCode3) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  Tell(*vm, "hang");
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"status", "--timeout", "inf"});
  vm->WaitForOutput("call GetStatus {}\n");
  vm->Signal(SIGKILL);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 3");
  EXPECT_EQ(vmctl->error(), "vmctl: error: VM \"web\" has ended\n");
}

TEST_F(VmctlTest, OutputThatCannotBeWrittenIsExitCode1) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> shell = ChildProcess::Start(
      {"/bin/bash", "-c", absl::StrCat(kVmctl, " status >/dev/full")}, Environment());
  EXPECT_EQ(shell->WaitForEnd(), "exit code 1");
  EXPECT_EQ(shell->error(),
            "vmctl: error: cannot write to standard output: No space left on device\n");
}

// --- Terminals
// ------------------------------------------------------------------------------------

TEST_F(VmctlTest, ColoursAreForTerminals) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl =
      StartVmctl({"devices"}, ChildProcess::Streams::kTerminal);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_THAT(vmctl->output(), HasSubstr("\x1b[1;31mFAILED\x1b[0m"));
  EXPECT_THAT(vmctl->output(), HasSubstr("\\x1b]0;owned\\x07"));
}

// --- events --follow
// --------------------------------------------------------------------------------

TEST_F(VmctlTest, FollowingShowsEachEventAsItComesAndEndsWithTheVm) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"events", "--follow"});
  vmctl->WaitForOutput("2 events were missed here\n");
  Tell(*vm, "event time { seconds: 1767268902 } guest_reset { reason: \"reboot\" }");
  EXPECT_EQ(vmctl->WaitForOutput("reboot\n"),
            "2026-01-01 12:01:42.000  vm         the guest was reset: ");
  Tell(*vm, kEndingEvent);
  EXPECT_EQ(vmctl->WaitForOutput("powered off\n"),
            "2026-01-01 12:01:42.000  vm         ENDING: the guest ");
  End(*vm);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl->error(), "vmctl: VM \"web\" has ended\n");
}

TEST_F(VmctlTest, FollowingAVmmThatIsKilledIsExitCode3) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"events", "--follow", "--json"});
  vmctl->WaitForOutput("\"time\":\"2026-01-01T12:01:41Z\"}\n");
  vm->Signal(SIGKILL);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 3");
  EXPECT_EQ(vmctl->error(), "vmctl: error: VM \"web\" has ended\n");
}

TEST_F(VmctlTest, CtrlCEndsFollowingCleanly) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl =
      StartVmctl({"events", "--follow", "--json"}, ChildProcess::Streams::kTerminal);
  vmctl->WaitForOutput("\"time\":\"2026-01-01T12:01:41Z\"}\r\n");
  vmctl->Write("\x03");
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_THAT(vmctl->output(), ::testing::EndsWith("}\r\n^C"));
}

// --- shutdown --wait, stop --wait
// -------------------------------------------------------------------

TEST_F(VmctlTest, APressThatTheGuestDoesNotListenToYetIsSaidToBeKept) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  Tell(*vm, "button off");
  const Result result = Run({"shutdown"});
  EXPECT_EQ(result.exit, "exit code 0");
  EXPECT_EQ(
      result.output,
      "the guest of VM \"web\" has not enabled its power button yet; the press is kept until it "
      "does\n");
}

TEST_F(VmctlTest, WaitingForTheShutdownReturnsOnceTheVmmIsGone) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"shutdown", "--wait"});
  vm->WaitForOutput("call Shutdown {}\n");
  Tell(*vm, kEndingEvent);
  End(*vm);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl->output(), "VM \"web\" has ended: the guest powered off\n");
}

TEST_F(VmctlTest, AVmmThatSaysThatItEndsStillHasToEnd) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  // It never will: its streams go on, and so does its process.
  Tell(*vm, kEndingEvent);
  // The call itself has to fit into the time.
  ExpectError({"stop", "--timeout", "5s"}, 5,
              "VM \"web\" has not ended within 5s; it may still do so");
  vm->WaitForOutput("call Stop {}\n");
  ExpectError({"shutdown", "--wait", "--timeout", "5s"}, 5,
              "VM \"web\" has not ended within 5s; the guest may not listen to its power button, "
              "`vmctl stop` ends it at once");
}

TEST_F(VmctlTest, StoppingReturnsOnceTheVmmIsGone) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"stop"});
  vm->WaitForOutput("call Stop {}\n");
  Tell(*vm, kEndingEvent);
  End(*vm);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl->output(), "VM \"web\" has ended: the guest powered off\n");
}

TEST_F(VmctlTest, WaitingForWhatTheVmRefusesDoesNotWait) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  Tell(*vm, "refuse 9 the VM is paused");
  ExpectError({"shutdown", "--wait"}, 1, "VM \"web\": the VM is paused");
}

// --- console
// ----------------------------------------------------------------------------------------

TEST_F(VmctlTest, AConsoleOverPipesCarriesEveryByteBothWays) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"console", "--follow", "console"});
  vm->WaitForOutput("attached console\n");
  Tell(*vm, "output login: \\033[1m\\000\\r\\n");
  vmctl->WaitForOutput(absl::string_view("login: \x1b[1m\0\r\n", 14));
  // No key leaves where there is no terminal.
  vmctl->Write("root\n\x1d");
  EXPECT_THAT(vm->WaitForOutput("\\035\n"), HasSubstr("typed root\\n"));
  // Nor does the end of input.
  vmctl->CloseInput();
  const std::string much(300'000, 'x');
  Tell(*vm, absl::StrCat("output ", much, "!"));
  EXPECT_EQ(vmctl->WaitForOutput("!"), much);
  End(*vm);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl->error(), "vmctl: VM \"web\" has ended\n");
}

TEST_F(VmctlTest, AConsoleEndsAtTheEndOfItsInputAndSendsItAll) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"console"});
  vm->WaitForOutput("attached \n");
  Tell(*vm, "output shown");
  vmctl->WaitForOutput("shown");
  vmctl->Write("reboot\n");
  vmctl->CloseInput();
  vm->WaitForOutput("typed reboot\\n\n");
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl->error(), "");
  vm->WaitForOutput("detached\n");
}

TEST_F(VmctlTest, AConsoleTellsWhatWasLostAndWhere) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"console"});
  vm->WaitForOutput("attached \n");
  Tell(*vm, "output before");
  vmctl->WaitForOutput("before");
  Tell(*vm, "lost 4097 after");
  vmctl->WaitForError("vmctl: 4097 bytes of output were lost here\n");
  vmctl->WaitForOutput("after");
}

TEST_F(VmctlTest, AConsoleEndsOnSignalsAndWhenNobodyReads) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"console"});
    vm->WaitForOutput("attached \n");
    vmctl->Signal(signal);
    EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
    EXPECT_EQ(vmctl->error(), "");
    vm->WaitForOutput("detached\n");
  }
  const std::unique_ptr<ChildProcess> shell = ChildProcess::Start(
      {"/bin/bash", "-c", absl::StrCat(kVmctl, " console | head -c 5; exit ${PIPESTATUS[0]}")},
      Environment());
  vm->WaitForOutput("attached \n");
  Tell(*vm, "output hello, world");
  EXPECT_EQ(shell->WaitForEnd(), "exit code 0");
  EXPECT_EQ(shell->output(), "hello");
  EXPECT_EQ(shell->error(), "");
}

// A user's shell around `vmctl console`: what the terminal's mode is before and after.
class ConsoleTerminalTest : public VmctlTest {
 protected:
  void SetUp() override {
    VmctlTest::SetUp();
    vm_ = StartVm();
    // A mode that is not the default: it must be this one that comes back.
    shell_ = ChildProcess::Start(
        {"/bin/bash", "-c",
         absl::StrCat("stty -echoke intr ^P; stty -g; sh -c 'echo \"pid $$.\"; exec ", kVmctl,
                      " console'; echo \"code $?.\"; stty -g; echo end.")},
        Environment(), ChildProcess::Streams::kTerminal);
    former_ = shell_->WaitForOutput("\r\npid ");
    vmctl_ = std::stoi(shell_->WaitForOutput("."));
    shell_->WaitForOutput("vmctl: console of VM \"web\"; Ctrl-] leaves\r\n");
    vm_->WaitForOutput("attached \n");
  }

  // vmctl has said `farewell` and ended with code 0; the terminal is as it was.
  void ExpectLeft(const std::string& farewell) {
    shell_->WaitForOutput(farewell + "\r\n");
    EXPECT_EQ(shell_->WaitForOutput("."), "code 0");
    EXPECT_EQ(shell_->WaitForOutput("end."), "\r\n" + former_ + "\r\n");
    EXPECT_EQ(shell_->WaitForEnd(), "exit code 0");
  }

  termios Mode() {
    termios mode = {};
    EXPECT_EQ(tcgetattr(shell_->terminal(), &mode), 0);
    return mode;
  }

  std::unique_ptr<ChildProcess> vm_;
  std::unique_ptr<ChildProcess> shell_;
  std::string former_;  // stty -g
  pid_t vmctl_ = 0;
};

TEST_F(ConsoleTerminalTest, EveryKeyGoesToTheGuestUntilCtrlBracketLeaves) {
  // Ctrl-C, Ctrl-D, Ctrl-Z, Ctrl-P and Return; no end of line follows.
  shell_->Write("a\x03\x04\x1a\x10\r");
  vm_->WaitForOutput("typed a\\003\\004\\032\\020\\r\n");
  // Nothing was echoed, and nothing is translated.
  Tell(*vm_, "output x\\ny\\r\\n");
  EXPECT_EQ(shell_->WaitForOutput("x\ny\r\n"), "");
  shell_->Write("\x1d");
  ExpectLeft("\nvmctl: left the console; VM \"web\" goes on");
  vm_->WaitForOutput("detached\n");
}

TEST_F(ConsoleTerminalTest, TheEndOfTheVmLeaves) {
  Tell(*vm_, "output last words");
  End(*vm_);
  ExpectLeft("last words\r\nvmctl: VM \"web\" has ended");
}

TEST_F(ConsoleTerminalTest, AKilledVmmLeaves) {
  vm_->Signal(SIGKILL);
  ExpectLeft("vmctl: VM \"web\" has ended");
}

TEST_F(ConsoleTerminalTest, ASignalLeaves) {
  ASSERT_EQ(kill(vmctl_, SIGTERM), 0);
  ExpectLeft("vmctl: left the console; VM \"web\" goes on");
}

TEST_F(ConsoleTerminalTest, PressedTwiceTheKeyLeavesAVmThatHangs) {
  vm_->Signal(SIGSTOP);
  shell_->Write("text\x1d\x1d");
  ExpectLeft("vmctl: left the console; VM \"web\" goes on");
}

TEST_F(ConsoleTerminalTest, LostOutputIsSaidOnALineOfItsOwn) {
  Tell(*vm_, "lost 12 after");
  shell_->WaitForOutput("vmctl: 12 bytes of output were lost here\r\nafter");
  shell_->Write("\x1d");
  ExpectLeft("vmctl: left the console; VM \"web\" goes on");
}

TEST_F(VmctlTest, AStoppedConsoleGivesTheTerminalBackMeanwhile) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl =
      StartVmctl({"console", "--escape=^A"}, ChildProcess::Streams::kTerminal);
  vmctl->WaitForOutput("Ctrl-A leaves\r\n");
  vm->WaitForOutput("attached \n");
  vmctl->Write("1");
  vm->WaitForOutput("typed 1\n");
  vmctl->Signal(SIGTSTP);
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(vmctl->pid()), &info, WSTOPPED), 0);
  ASSERT_EQ(info.si_code, CLD_STOPPED);
  termios mode = {};
  ASSERT_EQ(tcgetattr(vmctl->terminal(), &mode), 0);
  EXPECT_EQ(mode.c_lflag & (ICANON | ECHO | ISIG), tcflag_t{ICANON | ECHO | ISIG});
  vmctl->Signal(SIGCONT);
  Tell(*vm, "output again");
  vmctl->WaitForOutput("again");
  // Raw again: this is neither an interrupt nor does it wait for the end of a line.
  vmctl->Write("\x03");
  vm->WaitForOutput("typed \\003\n");
  vmctl->Write("\x1d\x01");
  vm->WaitForOutput("typed \\035\n");
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
}

// --- completion
// -------------------------------------------------------------------------------------

class CompletionTest : public VmctlTest {
 protected:
  // What bash's completion of `words` leaves in COMPREPLY, a word a line. The cursor is at the
  // last one.
  std::string Completions(const std::string& words) {
    const std::unique_ptr<ChildProcess> shell = ChildProcess::Start(
        {"/bin/bash", "-c",
         absl::StrCat("source <(", kVmctl, " completion bash) || exit 1\n", "COMP_WORDS=(", words,
                      ")\n",
                      "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
                      "_vmctl \"${COMP_WORDS[0]}\" \"${COMP_WORDS[COMP_CWORD]}\"\n"
                      "printf '%s ' \"${COMPREPLY[@]}\"\n",
                      "complete -p vmctl\n")},
        Environment());
    EXPECT_EQ(shell->WaitForEnd(), "exit code 0");
    EXPECT_EQ(shell->error(), "");
    std::string output = shell->output();
    const size_t registered = output.find("complete -F _vmctl vmctl\n");
    EXPECT_NE(registered, std::string::npos);
    return output.substr(0, registered);
  }
};

TEST_F(CompletionTest, KnowsCommandsFlagsVmsAndDevices) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  EXPECT_EQ(Completions("vmctl st"), "status stop ");
  EXPECT_EQ(Completions("vmctl device re"), "restart reset ");
  EXPECT_EQ(Completions("vmctl --timeout 1m device restart ''"), "console disk0 rng0 old ");
  EXPECT_EQ(Completions(absl::StrCat("./", kVmctl, " device restart disk0 --bi")), "--binary ");
  EXPECT_EQ(Completions("vmctl status --vm ''"), "web ");
  const std::unique_ptr<ChildProcess> db = StartVm("db");
  EXPECT_EQ(Completions("vmctl status --vm = ''"), "db web ");
  // Of which one is not clear.
  EXPECT_EQ(Completions("vmctl --timeout 1m device restart ''"), " ");
  EXPECT_EQ(Completions("vmctl --timeout = 1m --vm db device restart d"), "disk0 ");
}

TEST_F(CompletionTest, CompletesFilesWhereFilesAreWanted) {
  EXPECT_EQ(Completions("vmctl device restart disk0 --binary tools/vmctl/testdata/web."),
            "tools/vmctl/testdata/web.textproto ");
  EXPECT_EQ(Completions("vmctl --socket = tools/vmctl/testdata/web."),
            "tools/vmctl/testdata/web.textproto ");
}

TEST_F(CompletionTest, IsQuietWithoutAVmOrWithOneThatHangs) {
  EXPECT_EQ(Completions("vmctl device show ''"), " ");
  const std::unique_ptr<ChildProcess> vm = StartVm();
  vm->Signal(SIGSTOP);
  EXPECT_EQ(Completions("vmctl device show ''"), " ");
}

}  // namespace
}  // namespace bulkhead::vmctl
