#include "vmm/control/control_server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/channel/trace_ring.h"
#include "proto/vm_control.grpc.pb.h"
#include "third_party/grpc_protos/health/v1/health.grpc.pb.h"
#include "vmm/control/testing/fake_vm.h"
#include "vmm/control/testing/test_server.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Health = ::grpc::health::v1::Health;

using EventReader = grpc::ClientReader<v1::Event>;
using Console = grpc::ClientReaderWriter<v1::ConsoleInput, v1::ConsoleOutput>;

// Calls `method` with a deadline.
template <typename Stub, typename Request, typename Reply>
grpc::Status Call(Stub& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                  const Request& request, Reply& reply) {
  TestContext context;
  return (stub.*method)(&context, request, &reply);
}

template <typename Request>
Request Named(const std::string& name) {
  Request request;
  request.set_name(name);
  return request;
}

// Polls `condition`, which another process or thread makes true.
template <typename Condition>
bool Eventually(const Condition& condition) {
  const absl::Time deadline = absl::Now() + kCallTimeout;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

using Stub = v1::VmControl::Stub;

TEST(ControlServerTest, StatusDevicesAndMetricsAreReturned) {
  TestServer server;
  const std::unique_ptr<Stub> stub = server.NewStub();
  v1::VmStatus status;
  ASSERT_TRUE(Call(*stub, &Stub::GetStatus, v1::GetStatusRequest(), status).ok());
  EXPECT_EQ(status.name(), "fake");
  EXPECT_EQ(status.state(), v1::VmStatus::RUNNING);
  v1::ListDevicesReply devices;
  ASSERT_TRUE(Call(*stub, &Stub::ListDevices, v1::ListDevicesRequest(), devices).ok());
  ASSERT_EQ(devices.devices_size(), 2);
  EXPECT_EQ(devices.devices(0).name(), "console");
  v1::Device device;
  ASSERT_TRUE(Call(*stub, &Stub::GetDevice, Named<v1::GetDeviceRequest>("disk0"), device).ok());
  EXPECT_EQ(device.name(), "disk0");
  v1::VmMetrics metrics;
  ASSERT_TRUE(Call(*stub, &Stub::GetMetrics, v1::GetMetricsRequest(), metrics).ok());
  EXPECT_EQ(metrics.families(0).samples(0).value(), 42);
}

TEST(ControlServerTest, MetricsDoNotWaitForADeviceThatIsBusy) {
  TestServer server;
  server.vm.HoldAnswers();
  const std::unique_ptr<Stub> stub = server.NewStub();
  v1::VmMetrics metrics;
  ASSERT_TRUE(Call(*stub, &Stub::GetMetrics, v1::GetMetricsRequest(), metrics).ok());
  EXPECT_EQ(metrics.families(0).samples(0).value(), 42);
  server.vm.AnswerAll(absl::OkStatus());  // too late, which is no harm
}

TEST(ControlServerTest, CommandsReachTheVm) {
  TestServer server;
  const std::unique_ptr<Stub> stub = server.NewStub();
  v1::ShutdownReply shutdown;
  v1::PauseReply pause;
  v1::ResumeReply resume;
  v1::StopReply stop;
  v1::Device device;
  EXPECT_TRUE(Call(*stub, &Stub::Shutdown, v1::ShutdownRequest(), shutdown).ok());
  EXPECT_TRUE(shutdown.kept());
  v1::WakeReply wake;
  EXPECT_TRUE(Call(*stub, &Stub::Wake, v1::WakeRequest(), wake).ok());
  EXPECT_TRUE(Call(*stub, &Stub::Pause, v1::PauseRequest(), pause).ok());
  EXPECT_TRUE(Call(*stub, &Stub::Resume, v1::ResumeRequest(), resume).ok());
  v1::ResumeRequest resume_with_errors;
  resume_with_errors.set_report_errors(true);
  EXPECT_TRUE(Call(*stub, &Stub::Resume, resume_with_errors, resume).ok());
  EXPECT_TRUE(Call(*stub, &Stub::ResetDevice, Named<v1::ResetDeviceRequest>("disk0"), device).ok());
  EXPECT_EQ(device.generation(), 2u) << "not the device's state afterwards";
  EXPECT_TRUE(Call(*stub, &Stub::StopDevice, Named<v1::StopDeviceRequest>("disk0"), device).ok());
  EXPECT_TRUE(Call(*stub, &Stub::StartDevice, Named<v1::StartDeviceRequest>("disk0"), device).ok());
  v1::SetDeviceLinkRequest link = Named<v1::SetDeviceLinkRequest>("disk0");
  EXPECT_TRUE(Call(*stub, &Stub::SetDeviceLink, link, device).ok());
  link.set_up(true);
  EXPECT_TRUE(Call(*stub, &Stub::SetDeviceLink, link, device).ok());
  v1::RestartDeviceRequest restart = Named<v1::RestartDeviceRequest>("disk0");
  restart.set_binary("/new");
  restart.set_discard_state(true);
  EXPECT_TRUE(Call(*stub, &Stub::RestartDevice, restart, device).ok());
  EXPECT_EQ(device.generation(), 7u);
  v1::ResizeDiskRequest resize = Named<v1::ResizeDiskRequest>("disk0");
  resize.set_size_bytes(4096);
  EXPECT_TRUE(Call(*stub, &Stub::ResizeDisk, resize, device).ok());
  v1::LimitDeviceRequest limit = Named<v1::LimitDeviceRequest>("disk0");
  limit.set_operations_per_second(500);
  EXPECT_TRUE(Call(*stub, &Stub::LimitDevice, limit, device).ok());
  v1::SetBalloonRequest give;
  give.set_target_bytes(8192);
  v1::Balloon balloon;
  EXPECT_TRUE(Call(*stub, &Stub::SetBalloon, give, balloon).ok());
  EXPECT_EQ(balloon.target_bytes(), 8192u);
  EXPECT_TRUE(Call(*stub, &Stub::GetBalloon, v1::GetBalloonRequest(), balloon).ok());
  EXPECT_EQ(balloon.target_bytes(), 8192u);
  EXPECT_TRUE(Call(*stub, &Stub::Stop, v1::StopRequest(), stop).ok());
  EXPECT_THAT(server.vm.calls(),
              ElementsAre("power button", "wake", "pause", "resume", "resume with errors",
                          "reset disk0", "stop disk0", "start disk0", "link down disk0",
                          "link up disk0", "restart afresh as /new disk0", "resize to 4096 disk0",
                          "limit to 500 disk0", "balloon of 8192", "stop: stopped by a client"));
}

TEST(ControlServerTest, ErrorsKeepTheirCodeAndTheirAdvice) {
  TestServer server;
  const std::unique_ptr<Stub> stub = server.NewStub();
  v1::Device device;
  grpc::Status status = Call(*stub, &Stub::GetDevice, Named<v1::GetDeviceRequest>("disk9"), device);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "there is no device 'disk9'");
  status = Call(*stub, &Stub::RestartDevice, Named<v1::RestartDeviceRequest>("disk9"), device);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  status = Call(*stub, &Stub::GetDevice, v1::GetDeviceRequest(), device);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("ListDevices"));
  status = Call(*stub, &Stub::StopDevice, v1::StopDeviceRequest(), device);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  server.vm.FailWith(absl::FailedPreconditionError("the VM is paused: resume it first"));
  v1::ShutdownReply shutdown;
  status = Call(*stub, &Stub::Shutdown, v1::ShutdownRequest(), shutdown);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "the VM is paused: resume it first");
  v1::PauseReply pause;
  status = Call(*stub, &Stub::Pause, v1::PauseRequest(), pause);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST(ControlServerTest, ASecondServerForTheSocketIsRefused) {
  TestServer server;
  FakeVm vm;
  EXPECT_TRUE(absl::IsAlreadyExists(ListeningSocket::Open(server.path).status()));
  const std::unique_ptr<Stub> stub = server.NewStub();
  v1::VmStatus status;
  EXPECT_TRUE(Call(*stub, &Stub::GetStatus, v1::GetStatusRequest(), status).ok());
}

TEST(ControlServerTest, HealthFollowsTheVmsState) {
  TestServer server;
  const std::unique_ptr<Health::Stub> stub = Health::NewStub(server.Connect());
  const auto serving = [&](const std::string& service) {
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    grpc::health::v1::HealthCheckResponse response;
    EXPECT_TRUE(Call(*stub, &Health::Stub::Check, request, response).ok());
    return response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  };
  EXPECT_TRUE(serving(""));
  EXPECT_TRUE(serving("bulkhead.v1.VmControl"));
  server.vm.SetState(v1::VmStatus::PAUSED);
  EXPECT_TRUE(serving(""));
  server.vm.SetState(v1::VmStatus::ENDING);
  EXPECT_TRUE(Eventually([&] { return !serving(""); }));
  EXPECT_FALSE(serving("bulkhead.v1.VmControl"));
}

// --- Calls that take long -----------------------------------------------------------------------

TEST(ControlServerTest, LongCallsDoNotDelayOtherCalls) {
  TestServer server;
  server.vm.HoldAnswers();
  const std::unique_ptr<Stub> stub = server.NewStub();
  constexpr size_t kCallers = 20;
  std::vector<std::thread> callers;
  for (size_t i = 0; i < kCallers; ++i) {
    callers.emplace_back([&] {
      v1::Device device;
      const grpc::Status status =
          Call(*stub, &Stub::RestartDevice, Named<v1::RestartDeviceRequest>("disk0"), device);
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(device.generation(), kCallers + 1);
    });
  }
  ASSERT_TRUE(server.vm.AwaitHeld(kCallers, kCallTimeout));
  v1::VmStatus status;
  EXPECT_TRUE(Call(*stub, &Stub::GetStatus, v1::GetStatusRequest(), status).ok());
  server.vm.AnswerAll(absl::OkStatus());
  for (std::thread& caller : callers) caller.join();
}

TEST(ControlServerTest, AnAnswerAfterTheDeadlineIsDropped) {
  TestServer server;
  server.vm.HoldAnswers();
  const std::unique_ptr<Stub> stub = server.NewStub();
  // On a busy machine a short deadline passes before the call is there.
  bool held = false;
  for (absl::Duration limit = absl::Milliseconds(50); !held && limit < kCallTimeout; limit *= 2) {
    TestContext context(limit);
    v1::Device device;
    const grpc::Status status =
        stub->RestartDevice(&context, Named<v1::RestartDeviceRequest>("disk0"), &device);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    held = server.vm.AwaitHeld(1, limit);
  }
  ASSERT_TRUE(held);
  server.vm.AnswerAll(absl::OkStatus());
  v1::VmStatus vm_status;
  EXPECT_TRUE(Call(*stub, &Stub::GetStatus, v1::GetStatusRequest(), vm_status).ok());
}

TEST(ControlServerTest, ACancelledCallMakesRoomForTheNext) {
  TestServer server({.long_calls = 1});
  server.vm.HoldAnswers();
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext context;
  std::thread canceller([&] {
    EXPECT_TRUE(server.vm.AwaitHeld(1, kCallTimeout));
    v1::PauseReply reply;
    const grpc::Status full = Call(*stub, &Stub::Pause, v1::PauseRequest(), reply);
    EXPECT_EQ(full.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(full.error_message(), HasSubstr("1 clients wait for the VM already"));
    context.TryCancel();
  });
  v1::PauseReply reply;
  EXPECT_EQ(stub->Pause(&context, v1::PauseRequest(), &reply).error_code(),
            grpc::StatusCode::CANCELLED);
  canceller.join();
  EXPECT_TRUE(Eventually([&] {
    TestContext attempt(absl::Milliseconds(100));
    return stub->Pause(&attempt, v1::PauseRequest(), &reply).error_code() ==
           grpc::StatusCode::DEADLINE_EXCEEDED;  // it waits for the VM: there was room
  }));
  server.vm.AnswerAll(absl::OkStatus());
}

TEST(ControlServerTest, TheServersEndFinishesWaitingCallsAndTheVmMayAnswerLater) {
  TestServer server({.drain_timeout = absl::Seconds(10)});
  server.vm.HoldAnswers();
  const std::unique_ptr<Stub> stub = server.NewStub();
  std::thread caller([&] {
    v1::PauseReply reply;
    const grpc::Status status = Call(*stub, &Stub::Pause, v1::PauseRequest(), reply);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(status.error_message(), "the VM has ended: the guest powered off");
  });
  ASSERT_TRUE(server.vm.AwaitHeld(1, kCallTimeout));
  server.vm.SetExitReason("the guest powered off");
  server.server.reset();
  caller.join();
  server.vm.AnswerAll(absl::OkStatus());
  EXPECT_NE(access(server.path.c_str(), F_OK), 0) << "the socket is left";
}

// --- Events --------------------------------------------------------------------------------------

TEST(ControlServerTest, ASubscriberGetsASnapshotThenEventsAsTheyHappen) {
  TestServer server;
  server.vm.AppendEvent();
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext context;
  const std::unique_ptr<EventReader> reader = stub->WatchEvents(&context, v1::WatchEventsRequest());
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.sequence(), 1u);
  EXPECT_EQ(event.snapshot().status().name(), "fake");
  EXPECT_EQ(event.snapshot().devices_size(), 2);
  for (uint64_t i = 2; i < 5; ++i) {
    server.vm.AppendEvent();
    ASSERT_TRUE(reader->Read(&event));
    EXPECT_EQ(event.sequence(), i);
    EXPECT_TRUE(event.has_policy());
  }
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(ControlServerTest, AStreamOfPastEventsEndsByItself) {
  TestServer server;
  server.vm.AppendEvent();
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext context;
  v1::WatchEventsRequest request;
  request.set_only_past(true);
  const std::unique_ptr<EventReader> reader = stub->WatchEvents(&context, request);
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_TRUE(event.has_snapshot());
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_TRUE(event.has_policy());
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST(ControlServerTest, TheLastEventsComeBeforeTheEnd) {
  TestServer server({.drain_timeout = absl::Seconds(10)});
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext context;
  const std::unique_ptr<EventReader> reader = stub->WatchEvents(&context, v1::WatchEventsRequest());
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  std::thread ending([&] {
    server.vm.SetExitReason("the guest powered off");
    server.vm.SetState(v1::VmStatus::ENDING);
    server.server.reset();
  });
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.vm_state().state(), v1::VmStatus::ENDING);
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "the VM has ended: the guest powered off");
  ending.join();
}

TEST(ControlServerTest, OneSubscriberTooManyIsRefusedUntilOneLeaves) {
  TestServer server({.streams = 2});
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext watching, attached, third;
  const std::unique_ptr<EventReader> reader =
      stub->WatchEvents(&watching, v1::WatchEventsRequest());
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  const std::unique_ptr<Console> console = stub->AttachConsole(&attached);
  ASSERT_TRUE(console->Write(v1::ConsoleInput()));
  console->WaitForInitialMetadata();

  const std::unique_ptr<EventReader> refused = stub->WatchEvents(&third, v1::WatchEventsRequest());
  EXPECT_FALSE(refused->Read(&event));
  const grpc::Status status = refused->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("end one of them"));

  watching.TryCancel();
  EXPECT_TRUE(Eventually([&] {
    TestContext again;
    return stub->WatchEvents(&again, v1::WatchEventsRequest())->Read(&event);
  }));
}

// --- The console ---------------------------------------------------------------------------------

TEST(ControlServerTest, ATraceIsStreamedWhileItRunsAndOneAtATime) {
  TestServer server;
  const std::unique_ptr<Stub> stub = server.NewStub();
  v1::TraceRequest request;
  request.set_seconds(1);
  TestContext context;
  const std::unique_ptr<grpc::ClientReader<v1::TraceChunk>> reader = stub->Trace(&context, request);
  v1::TraceChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(chunk.start().name(), "fake");
  ASSERT_TRUE(server.vm.trace_recorder().on());
  server.vm.trace_recorder().Write(
      {.time_ns = channel::TraceNow(), .a = chunk.start().time_ns(), .operation = 1});
  server.vm.AppendEvent();

  TestContext second;
  v1::TraceChunk none;
  const auto refused = stub->Trace(&second, request);
  EXPECT_FALSE(refused->Read(&none));
  EXPECT_EQ(refused->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);

  int records = 0;
  int events = 0;
  const uint64_t begin_ns = chunk.start().time_ns();
  uint64_t until_ns = 0;
  while (reader->Read(&chunk)) {
    records += chunk.records_size();
    events += chunk.events_size();
    until_ns = chunk.complete_until_ns();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(records, 1);
  EXPECT_EQ(events, 1);
  EXPECT_GE(until_ns, begin_ns + 1'000'000'000);
  EXPECT_EQ(server.vm.traces(), 0);
}

TEST(ControlServerTest, ATraceEndsWithItsClientAndWithTheServer) {
  TestServer server;
  const std::unique_ptr<Stub> stub = server.NewStub();
  v1::TraceRequest request;
  request.set_seconds(600);
  for (const bool client_leaves : {true, false}) {
    TestContext context;
    const auto reader = stub->Trace(&context, request);
    v1::TraceChunk chunk;
    ASSERT_TRUE(reader->Read(&chunk));
    EXPECT_EQ(server.vm.traces(), 1);
    if (client_leaves) {
      context.TryCancel();
    } else {
      server.vm.SetExitReason("stopped");
      server.server.reset();
    }
    while (reader->Read(&chunk)) {
    }
    EXPECT_EQ(reader->Finish().error_code(),
              client_leaves ? grpc::StatusCode::CANCELLED : grpc::StatusCode::UNAVAILABLE);
    EXPECT_TRUE(Eventually([&] { return server.vm.traces() == 0; }));
  }
}

TEST(ControlServerTest, ATraceOfTooLongATimeIsRefused) {
  TestServer server;
  v1::TraceRequest request;
  request.set_seconds(601);
  TestContext context;
  v1::TraceChunk chunk;
  const std::unique_ptr<Stub> stub = server.NewStub();
  const auto reader = stub->Trace(&context, request);
  EXPECT_FALSE(reader->Read(&chunk));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("601"));
}

TEST(ControlServerTest, AConsoleCarriesBothDirections) {
  TestServer server;
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext context;
  const std::unique_ptr<Console> console = stub->AttachConsole(&context);
  v1::ConsoleInput input;
  input.set_device("console");
  input.set_data("ls\n");
  ASSERT_TRUE(console->Write(input));
  console->WaitForInitialMetadata();  // attached
  EXPECT_TRUE(Eventually([&] { return server.vm.console().typed() == "ls\n"; }));
  server.vm.console().Print("a.txt\n");
  v1::ConsoleOutput output;
  ASSERT_TRUE(console->Read(&output));
  EXPECT_EQ(output.data(), "a.txt\n");
  EXPECT_EQ(output.lost_bytes(), 0u);
  // A client that has ended its input still gets output.
  ASSERT_TRUE(console->WritesDone());
  server.vm.console().Print("more\n");
  ASSERT_TRUE(console->Read(&output));
  EXPECT_EQ(output.data(), "more\n");
  context.TryCancel();
  EXPECT_TRUE(Eventually([&] { return server.vm.console().clients() == 0; }));
}

TEST(ControlServerTest, TypedInputWaitsForTheConsolesRoom) {
  TestServer server;
  server.vm.console().SetRoom(4);
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext context;
  const std::unique_ptr<Console> console = stub->AttachConsole(&context);
  v1::ConsoleInput input;
  input.set_data("012345");
  ASSERT_TRUE(console->Write(input));
  input.set_data("6789");
  ASSERT_TRUE(console->Write(input));
  ASSERT_TRUE(console->WritesDone());
  EXPECT_TRUE(Eventually([&] { return server.vm.console().typed() == "0123"; }));
  server.vm.console().SetRoom(3);
  EXPECT_TRUE(Eventually([&] { return server.vm.console().typed() == "0123456"; }));
  server.vm.console().SetRoom(100);
  EXPECT_TRUE(Eventually([&] { return server.vm.console().typed() == "0123456789"; }));
}

TEST(ControlServerTest, AConsoleClientThatDoesNotReadGetsTheNumberOfLostBytes) {
  TestServer server;
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext context;
  const std::unique_ptr<Console> console = stub->AttachConsole(&context);
  ASSERT_TRUE(console->Write(v1::ConsoleInput()));
  console->WaitForInitialMetadata();
  const std::string line(1000, 'x');
  constexpr size_t kLines = 5000;  // more than gRPC and the console buffer
  for (size_t i = 0; i < kLines; ++i) server.vm.console().Print(line);
  server.vm.console().Print("end");
  size_t received = 0, lost = 0;
  v1::ConsoleOutput output;
  while (received + lost < kLines * line.size() + 3) {
    ASSERT_TRUE(console->Read(&output));
    received += output.data().size();
    lost += output.lost_bytes();
  }
  EXPECT_GT(lost, 0u);
  EXPECT_EQ(received + lost, kLines * line.size() + 3);
  EXPECT_EQ(output.data().substr(output.data().size() - 3), "end");
}

TEST(ControlServerTest, ConsoleMistakesAreExplained) {
  TestServer server;
  const std::unique_ptr<Stub> stub = server.NewStub();
  v1::ConsoleInput input;
  {
    TestContext context;
    const std::unique_ptr<Console> console = stub->AttachConsole(&context);
    input.set_device("nope");
    console->Write(input);
    EXPECT_EQ(console->Finish().error_message(), "there is no console 'nope'");
  }
  {
    TestContext context;
    const std::unique_ptr<Console> console = stub->AttachConsole(&context);
    console->WritesDone();
    const grpc::Status status = console->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("send one whose `device`"));
  }
  {
    TestContext context;
    const std::unique_ptr<Console> console = stub->AttachConsole(&context);
    input.set_device("console");
    console->Write(input);
    input.set_device("other");
    console->Write(input);
    const grpc::Status status = console->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("another AttachConsole call for 'other'"));
  }
  EXPECT_TRUE(Eventually([&] { return server.vm.console().clients() == 0; }));
}

TEST(ControlServerTest, TheLastOutputComesBeforeTheEnd) {
  TestServer server({.drain_timeout = absl::Seconds(10)});
  const std::unique_ptr<Stub> stub = server.NewStub();
  TestContext context;
  const std::unique_ptr<Console> console = stub->AttachConsole(&context);
  ASSERT_TRUE(console->Write(v1::ConsoleInput()));
  console->WaitForInitialMetadata();
  std::thread ending([&] {
    server.vm.console().Print("Power down.\n");
    server.server.reset();
  });
  v1::ConsoleOutput output;
  ASSERT_TRUE(console->Read(&output));
  EXPECT_EQ(output.data(), "Power down.\n");
  EXPECT_FALSE(console->Read(&output));
  EXPECT_EQ(console->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  ending.join();
}

}  // namespace
}  // namespace bulkhead::vmm
