// The rig as a process, from the vmm's side: control plane, attach, death, successor.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "devices/host/testing/vmm_side.h"
#include "devices/rig/registers.h"
#include "devices/rig/rig_device.h"
#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/support/channel_arguments.h"
#include "gtest/gtest.h"
#include "proto/attach.pb.h"
#include "proto/contract.h"
#include "proto/device_control.grpc.pb.h"

namespace bulkhead::devices::rig {
namespace {

using channel::Operation;
using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Not;
using Stub = v1::DeviceControl::Stub;

constexpr absl::Duration kLong = absl::Seconds(30);         // never passes in a test that works
constexpr absl::Duration kShort = absl::Milliseconds(100);  // passes where nothing is expected

std::string Binary() {
  return absl::StrCat(getenv("TEST_SRCDIR"), "/", getenv("TEST_WORKSPACE"), "/devices/rig/rig");
}

// One process of the device.
class Process {
 public:
  explicit Process(std::vector<std::string> flags, const std::string& environment = "") {
    std::pair<UniqueFd, UniqueFd> attach = *CreateSocketPair(SOCK_SEQPACKET);
    std::pair<UniqueFd, UniqueFd> control = *CreateSocketPair(SOCK_STREAM);
    // Above the numbers that they get, so that neither is overwritten by the other.
    const UniqueFd theirs[] = {UniqueFd(fcntl(attach.second.get(), F_DUPFD_CLOEXEC, 10)),
                               UniqueFd(fcntl(control.second.get(), F_DUPFD_CLOEXEC, 10))};
    flags.insert(flags.begin(), Binary());
    std::vector<char*> argv;
    for (std::string& flag : flags) argv.push_back(flag.data());
    argv.push_back(nullptr);
    std::string variable = environment;
    char* const envp[] = {environment.empty() ? nullptr : variable.data(), nullptr};
    pid_ = fork();
    if (pid_ == 0) {
      dup2(theirs[0].get(), kAttachSocketFd);
      dup2(theirs[1].get(), kControlSocketFd);
      execve(argv[0], argv.data(), envp);
      _exit(127);
    }
    attach_ = std::move(attach.first);
    fcntl(control.first.get(), F_SETFL, O_NONBLOCK);
    stub_ = v1::DeviceControl::NewStub(grpc::CreateCustomInsecureChannelFromFd(
        "device", control.first.release(), grpc::ChannelArguments()));
  }
  ~Process() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  // The error of the reply; "gone" if the process ended instead.
  std::string Attach(const VmmSide& vmm, uint64_t generation) {
    v1::AttachRequest request;
    std::vector<int> fds;
    const auto add = [&](v1::Descriptor::Kind kind, int fd, uint32_t index = 0) -> auto& {
      fds.push_back(fd);
      v1::Descriptor& descriptor = *request.add_descriptors();
      descriptor.set_kind(kind);
      descriptor.set_index(index);
      return descriptor;
    };
    const channel::ChannelOptions options = vmm.client->options();
    request.set_contract_version(kContractVersion);
    request.set_generation(generation);
    request.mutable_channel()->set_slots(options.slots);
    request.mutable_channel()->set_waiters(options.waiters);
    add(v1::Descriptor::CHANNEL_REQUEST_MEMORY, vmm.client->request_memory_fd());
    add(v1::Descriptor::CHANNEL_RESPONSE_MEMORY, vmm.client->response_memory_fd());
    add(v1::Descriptor::CHANNEL_REQUEST_EVENT, vmm.client->request_event_fd());
    for (uint32_t i = 0; i < options.waiters; ++i) {
      add(v1::Descriptor::CHANNEL_COMPLETION_EVENT, vmm.client->completion_event_fd(i), i);
    }
    add(v1::Descriptor::GUEST_MEMORY, vmm.ram_file.get()).set_size_bytes(VmmSide::kRamBytes);
    add(v1::Descriptor::DOORBELL, vmm.doorbells[0].fd());
    for (uint32_t i = 0; i < kMsixVectors; ++i) {
      add(v1::Descriptor::MSIX_VECTOR, vmm.vectors[i].fd(), i);
    }
    add(v1::Descriptor::INTX, vmm.line.fd());
    add(v1::Descriptor::INTX_RESAMPLE, vmm.resample.fd());
    add(v1::Descriptor::DURABLE_STATE, vmm.durable_state.get());
    EXPECT_TRUE(SendSocketMessage(attach_.get(), request.SerializeAsString(), fds).ok());
    const auto message = ReceiveSocketMessage(attach_.get(), 4096, kLong);
    v1::AttachReply reply;
    if (!message.ok() || !reply.ParseFromString(message->bytes)) return "gone";
    return reply.error();
  }

  template <typename Request, typename Reply>
  grpc::StatusCode Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                        Reply* reply, absl::Duration timeout = kLong) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    return (stub_.get()->*method)(&context, Request(), reply).error_code();
  }
  bool Heartbeat(absl::Duration timeout = kLong) {
    v1::HeartbeatReply reply;
    return Call(&Stub::Heartbeat, &reply, timeout) == grpc::StatusCode::OK;
  }
  grpc::StatusCode Quiesce() {
    v1::QuiesceReply reply;
    return Call(&Stub::Quiesce, &reply);
  }
  grpc::StatusCode Shutdown() {
    v1::ShutdownDeviceReply reply;
    return Call(&Stub::Shutdown, &reply);
  }

  bool IsAlive() { return pid_ > 0 && !Reap(WNOHANG); }
  // How it ends: the exit code, or minus the signal's number.
  int AwaitEnd() {
    Reap(0);
    return end_;
  }
  void Kill() {
    kill(pid_, SIGKILL);
    AwaitEnd();
  }

 private:
  bool Reap(int options) {
    int status = 0;
    if (pid_ <= 0 || waitpid(pid_, &status, options) != pid_) return false;
    pid_ = 0;
    end_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return true;
  }

  pid_t pid_ = 0;
  int end_ = -1000;
  UniqueFd attach_;
  std::unique_ptr<Stub> stub_;
};

class RigProcessTest : public testing::Test {
 protected:
  void StartProcess(const std::vector<std::string>& flags = {},
                    const std::string& environment = "") {
    process_ = std::make_unique<Process>(flags, environment);
  }
  // Once it is dead. "": it serves.
  std::string Succeed(const std::vector<std::string>& flags = {}) {
    process_->AwaitEnd();
    const auto plan = vmm_.client->PrepareSuccessor(/*discard_requests=*/false);
    EXPECT_TRUE(plan.ok()) << plan.status();
    StartProcess(flags);
    return process_->Attach(vmm_, ++generation_);
  }

  void Post(uint64_t offset, uint8_t size_bytes, uint64_t value) {
    EXPECT_TRUE(vmm_.client->Post(0, kRegisterBar, offset, size_bytes, value, kLong).ok());
  }
  uint64_t Read(uint64_t offset, uint8_t size_bytes, absl::Duration timeout = kLong) {
    return vmm_.client->Call(Operation::kRead, 0, kRegisterBar, offset, size_bytes, 0, timeout)
        .value_or(~uint64_t{0});
  }
  // A read in the course of which processes may die.
  uint64_t ReadWhateverDies(uint64_t offset, uint8_t size_bytes) {
    constexpr absl::Duration kStep = absl::Milliseconds(5);
    absl::StatusOr<uint64_t> answer =
        vmm_.client->Call(Operation::kRead, 0, kRegisterBar, offset, size_bytes, 0, kStep);
    const absl::Time deadline = absl::Now() + kLong;
    while (absl::IsDeadlineExceeded(answer.status()) && absl::Now() < deadline) {
      if (!process_->IsAlive() && !Succeed().empty()) break;
      answer = vmm_.client->AwaitAnswer(0, kStep);
    }
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(~uint64_t{0});
  }

  const VmmSide vmm_{RigDevice().Describe(), {.slots = 64, .waiters = 2}};
  uint64_t generation_ = 1;  // of process_
  std::unique_ptr<Process> process_;
};

TEST_F(RigProcessTest, AnswersBeforeItIsAttached) {
  StartProcess();
  v1::DeviceInfo info;
  ASSERT_EQ(process_->Call(&Stub::Describe, &info), grpc::StatusCode::OK);
  EXPECT_EQ(info.model(), "rig");
  EXPECT_TRUE(process_->Heartbeat());
  EXPECT_TRUE(process_->Heartbeat());
  EXPECT_EQ(process_->Quiesce(), grpc::StatusCode::FAILED_PRECONDITION);
  v1::DeviceMetrics metrics;
  EXPECT_EQ(process_->Call(&Stub::GetMetrics, &metrics), grpc::StatusCode::OK);
  EXPECT_EQ(process_->Shutdown(), grpc::StatusCode::OK);
  EXPECT_EQ(process_->AwaitEnd(), 0);
}

TEST_F(RigProcessTest, ServesAndTellsHowMuch) {
  StartProcess();
  ASSERT_EQ(process_->Attach(vmm_, 1), "");
  EXPECT_EQ(Read(kIdentificationOffset, 4), kIdentification);
  EXPECT_TRUE(process_->Heartbeat());
  v1::DeviceMetrics metrics;
  ASSERT_EQ(process_->Call(&Stub::GetMetrics, &metrics), grpc::StatusCode::OK);
  std::vector<std::string> names;
  for (const v1::DeviceMetric& metric : metrics.metrics()) {
    names.push_back(metric.name());
    EXPECT_THAT(metric.help(), Not(IsEmpty())) << metric.name();
    EXPECT_EQ(metric.name().find_first_not_of("abcdefghijklmnopqrstuvwxyz_"), std::string::npos);
  }
  EXPECT_THAT(names, Contains("register_reads_total"));
  EXPECT_THAT(names, Contains("dma_bytes_total"));
}

TEST_F(RigProcessTest, AHangShowsAndASuccessorGoesOn) {
  StartProcess();
  ASSERT_EQ(process_->Attach(vmm_, 1), "");
  Post(kSumOffset, 8, 40);
  Post(kHangOffset, 4, kOnce);
  Post(kSumOffset, 8, 2);
  while (process_->Heartbeat(kShort)) {
  }
  EXPECT_TRUE(process_->IsAlive());
  process_->Kill();
  ASSERT_EQ(Succeed(), "");
  EXPECT_EQ(Read(kSumOffset, 8), 42u);
  EXPECT_TRUE(process_->Heartbeat());
}

TEST_F(RigProcessTest, LongWorkGivesHeartbeats) {
  StartProcess();
  ASSERT_EQ(process_->Attach(vmm_, 1), "");
  Post(kWorkOffset, 4, 1000);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(process_->Heartbeat());
  EXPECT_EQ(Read(kIdentificationOffset, 4), kIdentification);
}

TEST_F(RigProcessTest, ACrashLeavesEverythingToTheSuccessor) {
  StartProcess();
  ASSERT_EQ(process_->Attach(vmm_, 1), "");
  Post(kSumOffset, 8, 40);
  Post(kScratchOffset, 8, 0x1122334455667788);
  Post(kCrashOffset, 4, kOnce);
  EXPECT_EQ(process_->AwaitEnd(), -SIGABRT);
  Post(kSumOffset, 8, 2);
  ASSERT_EQ(Succeed(), "");
  EXPECT_EQ(Read(kSumOffset, 8), 42u);
  EXPECT_EQ(Read(kScratchOffset, 8), 0x1122334455667788u);
}

TEST_F(RigProcessTest, ACrashInTheMiddleOfAWriteComesAgainInEverySuccessor) {
  StartProcess();
  ASSERT_EQ(process_->Attach(vmm_, 1), "");
  Post(kCrashOffset, 4, kAlways);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(process_->AwaitEnd(), -SIGABRT);
    ASSERT_EQ(Succeed(), "");
  }
  EXPECT_EQ(process_->AwaitEnd(), -SIGABRT);
}

TEST_F(RigProcessTest, IsReplacedWithoutADeath) {
  StartProcess();
  ASSERT_EQ(process_->Attach(vmm_, 1), "");
  Post(kSumOffset, 8, 40);
  ASSERT_EQ(process_->Quiesce(), grpc::StatusCode::OK);
  Post(kSumOffset, 8, 2);
  ASSERT_EQ(process_->Shutdown(), grpc::StatusCode::OK);
  EXPECT_EQ(process_->AwaitEnd(), 0);
  ASSERT_EQ(Succeed(), "");
  EXPECT_EQ(Read(kSumOffset, 8), 42u);
}

TEST_F(RigProcessTest, DamagedStateIsRefusedWithItsReason) {
  StartProcess();
  ASSERT_EQ(process_->Attach(vmm_, 1), "");
  Post(kSumOffset, 8, 40);
  Read(kSumOffset, 8);
  process_->Kill();
  const uint8_t garbage[200] = {1, 2, 3};
  ASSERT_GT(pwrite(vmm_.durable_state.get(), garbage, sizeof(garbage), 100), 0);
  EXPECT_THAT(Succeed(), testing::HasSubstr("the saved state is damaged: "));
  EXPECT_EQ(process_->AwaitEnd(), 1);
}

TEST_F(RigProcessTest, DiesAndHangsAtItsStartIfItIsTold) {
  StartProcess({"--crash_at_start"});
  EXPECT_EQ(process_->AwaitEnd(), -SIGABRT);
  StartProcess({"--hang_at_start"});
  v1::DeviceInfo info;
  EXPECT_EQ(process_->Call(&Stub::Describe, &info, kShort), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(process_->IsAlive());
}

TEST_F(RigProcessTest, RefusesACrashPointThatThereIsNot) {
  StartProcess({"--crash_point=nowhere"});
  EXPECT_EQ(process_->AwaitEnd(), kDeviceExitUsage);
  StartProcess({}, "BULKHEAD_CRASH_POINT=nowhere");
  EXPECT_EQ(process_->AwaitEnd(), kDeviceExitUsage);
}

// What the binary itself lists.
std::vector<std::string> CrashPoints() {
  std::vector<std::string> names;
  FILE* const pipe = popen(absl::StrCat(Binary(), " --crash_point=list").c_str(), "r");
  char line[128];
  while (pipe != nullptr && fgets(line, sizeof(line), pipe) != nullptr) {
    names.push_back(std::string(line, strcspn(line, "\n")));
  }
  if (pipe != nullptr) pclose(pipe);
  return names;
}

class RigCrashPointTest : public RigProcessTest, public testing::WithParamInterface<std::string> {};

TEST_P(RigCrashPointTest, ADeathThereLosesAndRepeatsNothing) {
  StartProcess({absl::StrCat("--crash_point=", GetParam(), ":1:1")});
  const std::string error = process_->Attach(vmm_, 1);
  if (error == "gone") {
    ASSERT_EQ(Succeed(), "");
  }
  const auto adds_and_takes = [this](uint64_t n) {
    Post(kSumOffset, 8, 10);
    EXPECT_EQ(ReadWhateverDies(kTakeOffset, 4), n);
    EXPECT_EQ(ReadWhateverDies(kSumOffset, 8), 10 * n);
    const uint64_t doorbells = ReadWhateverDies(kDoorbellCountOffset, 4);
    vmm_.doorbells[0].Signal();
    while (ReadWhateverDies(kDoorbellCountOffset, 4) == doorbells && !HasFailure()) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  };
  for (uint64_t n = 1; n <= 3; ++n) adds_and_takes(n);
  vmm_.client->Call(Operation::kReset, 0, 0, 0, 8, 0, absl::Milliseconds(50)).IgnoreError();
  for (uint64_t n = 1; n <= 3; ++n) adds_and_takes(n);
  EXPECT_EQ(generation_, 2u) << "it was not reached";
}

INSTANTIATE_TEST_SUITE_P(All, RigCrashPointTest, testing::ValuesIn(CrashPoints()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace bulkhead::devices::rig
