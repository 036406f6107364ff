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
#include "tools/vmctl/testing/vmctl_fixture.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kEndingEvent[] =
    "event time { seconds: 1767268902 } vm_state { state: ENDING reason: \"the guest powered off\" "
    "}";

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
      {{"resume", "--report-errors"}, "Resume {report_errors: true}", "VM \"web\" runs again\n"},
      {{"shutdown"}, "Shutdown {}", "pressed the power button of VM \"web\"\n"},
      {{"wake"}, "Wake {}", "woke VM \"web\"\n"},
      {{"stop", "--no-wait"}, "Stop {}", "VM \"web\" is ending\n"},
      {{"device", "stop", "disk0"},
       "StopDevice {name: \"disk0\"}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "start", "disk0"},
       "StartDevice {name: \"disk0\"}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "link", "disk0", "down"},
       "SetDeviceLink {name: \"disk0\"}",
       "the link of disk0 is \n"},
      {{"device", "link", "disk0", "up"},
       "SetDeviceLink {name: \"disk0\" up: true}",
       "the link of disk0 is \n"},
      {{"device", "reset", "disk0"},
       "ResetDevice {name: \"disk0\"}",
       "reset: disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "resize", "disk0"},
       "ResizeDisk {name: \"disk0\"}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "resize", "disk0", "1M"},
       "ResizeDisk {name: \"disk0\" size_bytes: 1048576}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "limit", "disk0", "iops=500", "bps=0"},
       "LimitDevice {name: \"disk0\" bytes_per_second: 0 operations_per_second: 500}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"device", "limit", "disk0", "pps=500", "pps-burst=0"},
       "LimitDevice {name: \"disk0\" frames_per_second: 500 frames_burst: 0}",
       "disk0 is RUNNING: pid 4720, generation 2\n"},
      {{"balloon"},
       "GetBalloon {}",
       "of 512 MiB the guest has given up 1000 KiB; it is to give up 64 MiB\n"},
      {{"balloon", "1G"},
       "SetBalloon {target_bytes: 1073741824}",
       "of 512 MiB the guest has given up 0 bytes; it is to give up 1 GiB\n"},
      {{"balloon", "0"},
       "SetBalloon {}",
       "of 512 MiB the guest has given up 0 bytes; it is to give up 0 bytes\n"},
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

TEST_F(VmctlTest, AnUpgradeRestartsEachDeviceThatRunsByItsPath) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const Result result = Run({"upgrade"});
  EXPECT_EQ(result.exit, "exit code 0") << result.error;
  EXPECT_THAT(result.output, HasSubstr("disk0 is RUNNING: pid 4720, generation 2\n"));
  EXPECT_THAT(result.output, HasSubstr("old is STOPPED: stopped by a client\n"));
  for (const char* device : {"console\" binary: \"/opt/bulkhead/uart16550\"", "disk0\" binary: "}) {
    vm->WaitForOutput(absl::StrCat("call RestartDevice {name: \"", device));
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

TEST_F(VmctlTest, WrongUsageIsExitCode2) {
  ExpectError({"stats"}, 2, "\"stats\" is not a command; see vmctl --help");
  ExpectError({"device", "show"}, 2,
              "device show: give the device's NAME; see vmctl device show --help");
  ExpectError({"completion", "zsh"}, 2, "completion: \"zsh\" is not a supported shell; give bash");
  ExpectError({"help", "nonsense"}, 2, "\"nonsense\" is not a command; see vmctl --help");
}

TEST_F(VmctlTest, WithoutAVmItSaysWhereItLooked) {
  const std::string looked =
      "is running: no process listens on a control socket in $DIRECTORY; start one with vmm, or "
      "give --socket PATH";
  ExpectError({"status"}, 3, "no VM " + looked);
  LeaveStaleSocket("killed");
  ExpectError({"status"}, 3, "no VM " + looked);
  ExpectError({"status", "--vm", "killed"}, 3, "no VM \"killed\" " + looked);
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
                "VM \"web\" did not answer within 50ms; the command may still take effect. "
                "See `vmctl status`; --timeout sets how long to wait");
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

TEST_F(VmctlTest, ColoursAreForTerminals) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl =
      StartVmctl({"devices"}, ChildProcess::Streams::kTerminal);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_THAT(vmctl->output(), HasSubstr("\x1b[1;31mFAILED\x1b[0m"));
  EXPECT_THAT(vmctl->output(), HasSubstr("\\x1b]0;owned\\x07"));
}

// --- events --follow

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

TEST_F(VmctlTest, FollowingInTheBackgroundOfAScriptHearsNoCtrlC) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = ChildProcess::Start(
      {"/bin/sh", "-c", absl::StrCat("trap '' INT; exec ", kVmctl, " events --follow")},
      Environment());
  vmctl->WaitForOutput("\n");
  vmctl->Signal(SIGINT);
  Tell(*vm, kEndingEvent);
  vmctl->WaitForOutput("powered off");
  End(*vm);
  vmctl->WaitForEnd();
}

// --- shutdown --wait, stop --wait

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

// --- completion

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
  EXPECT_EQ(Completions("vmctl device re"), "restart resize reset ");
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
