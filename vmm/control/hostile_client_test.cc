// Hostile clients. Whatever they do, another client's call must be answered, and the VM must not be
// delayed.

#include <stdint.h>

#include <filesystem>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/memory_use.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "proto/vm_control.grpc.pb.h"
#include "vmm/control/control_server.h"
#include "vmm/control/testing/fake_vm.h"
#include "vmm/control/testing/raw_client.h"
#include "vmm/control/testing/test_server.h"

#ifdef __SANITIZE_ADDRESS__
// Small: AddressSanitizer's default quarantine keeps 256 MiB of freed memory, which the tests
// would measure.
extern "C" const char* __asan_default_options() {  // NOLINT(bugprone-reserved-identifier)
  return "quarantine_size_mb=1:thread_local_quarantine_size_kb=16";
}
#endif

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;
using Console = grpc::ClientReaderWriter<v1::ConsoleInput, v1::ConsoleOutput>;

// The overhead of allocations: AddressSanitizer surrounds each with red zones.
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kOverhead = 4;
#else
constexpr size_t kOverhead = 1;
#endif

constexpr char kGetStatus[] = "/bulkhead.v1.VmControl/GetStatus";
constexpr char kPause[] = "/bulkhead.v1.VmControl/Pause";
constexpr char kWatchEvents[] = "/bulkhead.v1.VmControl/WatchEvents";
constexpr char kAttachConsole[] = "/bulkhead.v1.VmControl/AttachConsole";
constexpr char kReflect[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

grpc::Status GetStatus(v1::VmControl::Stub& stub) {
  TestContext context;
  v1::VmStatus status;
  return stub.GetStatus(&context, v1::GetStatusRequest(), &status);
}

// A well-behaved client beside the others.
void ExpectServes(TestServer& server) {
  const std::unique_ptr<v1::VmControl::Stub> stub = server.NewStub();
  const grpc::Status status = GetStatus(*stub);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

size_t Threads() {
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/task"), {}));
}

// A hand-made call that sends only its first message. Its answers are never read.
std::unique_ptr<RawClient> StartRaw(const TestServer& server, absl::string_view path,
                                    bool with_message = true) {
  auto client = std::make_unique<RawClient>(server.path);
  client->Send(absl::StrCat(RawClient::Preface(), RawClient::Headers(1, path)));
  if (with_message) client->Send(RawClient::Data(1, RawClient::Message(""), /*last=*/true));
  return client;
}

TEST(HostileClientTest, ACompressedRequestIsNotDecompressed) {
  TestServer server;
  const std::unique_ptr<v1::VmControl::Stub> stub = server.NewStub();
  v1::GetDeviceRequest request;
  request.set_name(std::string(40 << 20, 'a'));  // some 40 KiB, compressed: within the limit
  TestContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  v1::Device device;
  const grpc::Status status = stub->GetDevice(&context, request, &device);
  // As for any bytes that are not a message. RESOURCE_EXHAUSTED would mean that it was decompressed
  // and found too long.
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  ExpectServes(server);
}

TEST(HostileClientTest, SubscribersThatNeverReadDelayNothingAndUseLittleMemory) {
  constexpr int kEvents = 100'000;
  TestServer server({.connections = 200, .streams = 60});
  ExpectServes(server);
  std::vector<std::unique_ptr<RawClient>> stuck;
  for (int i = 0; i < 59; ++i) stuck.push_back(StartRaw(server, kWatchEvents));
  const std::unique_ptr<v1::VmControl::Stub> late = server.NewStub();
  TestContext context(absl::Minutes(2));
  const auto reader = late->WatchEvents(&context, v1::WatchEventsRequest());
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  uint64_t known = event.sequence();
  ExpectServes(server);

  const size_t before = PrivateBytes();
  const std::unique_ptr<v1::VmControl::Stub> other = server.NewStub();
  for (int i = 0; i < kEvents; ++i) {
    server.vm.AppendEvent();
    if (i % 10'000 == 0) {
      EXPECT_TRUE(GetStatus(*other).ok());
    }
  }
  // 64 KiB for each subscriber are gRPC's window, in the client's socket; the log has 1024 events.
  EXPECT_LT(PrivateBytes(), before + kOverhead * ((60 * 100 + 4000) << 10));

  // A subscriber that reads at last gets every event, or its count in EventsMissed.
  bool missed = false;
  while (known < kEvents) {
    ASSERT_TRUE(reader->Read(&event));
    if (event.has_missed()) {
      missed = true;
      known += event.missed().count();
    } else if (!event.has_snapshot()) {
      ++known;
    }
    ASSERT_EQ(event.sequence(), known);
  }
  EXPECT_TRUE(missed);
  server.server.reset();  // bounded, although they still do not read
}

TEST(HostileClientTest, OpenCallsOccupyNoThreads) {
  TestServer server({.connections = 200, .streams = 60, .long_calls = 60});
  server.vm.HoldAnswers();
  ExpectServes(server);
  const size_t before = Threads();
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 30; ++i) {
    clients.push_back(StartRaw(server, kWatchEvents));
    clients.push_back(StartRaw(server, kAttachConsole));
    clients.push_back(StartRaw(server, kPause));
    clients.push_back(StartRaw(server, kReflect, /*with_message=*/false));
  }
  ASSERT_TRUE(server.vm.AwaitHeld(30, kCallTimeout));
  ExpectServes(server);
  // gRPC starts a thread of its pools now and then, independent of the calls.
  EXPECT_LT(Threads(), before + 5);
}

TEST(HostileClientTest, ConnectionsBeyondTheLimitAreClosedUntilOthersEnd) {
  TestServer server({.connections = 100});
  const std::unique_ptr<v1::VmControl::Stub> stub = server.NewStub();
  ASSERT_TRUE(GetStatus(*stub).ok());
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 99; ++i) {
    clients.push_back(std::make_unique<RawClient>(server.path));
    ASSERT_TRUE(clients.back()->ok());
    clients.back()->Send(RawClient::Preface());
  }
  RawClient one_too_many(server.path);
  EXPECT_TRUE(one_too_many.AwaitClose(kCallTimeout));
  EXPECT_TRUE(GetStatus(*stub).ok());
  clients.resize(50);
  const absl::Time deadline = absl::Now() + kCallTimeout;
  while (!GetStatus(*server.NewStub()).ok()) ASSERT_LT(absl::Now(), deadline);
}

TEST(HostileClientTest, APartialRequestDelaysNoOtherClient) {
  TestServer server;
  std::vector<std::unique_ptr<RawClient>> clients;
  const std::string preface = RawClient::Preface();
  const std::string headers = RawClient::Headers(1, kGetStatus);
  const std::string request = absl::StrCat(preface, headers);
  // Cut at any point, also within the message.
  for (size_t cut = 0; cut < request.size(); cut += 7) {
    clients.push_back(std::make_unique<RawClient>(server.path));
    EXPECT_TRUE(clients.back()->Send(request.substr(0, cut)));
  }
  for (const size_t announced : {1u, 60'000u}) {
    clients.push_back(StartRaw(server, kGetStatus, false));
    clients.back()->Send(RawClient::Data(
        1, RawClient::Message(std::string(announced, 'x')).substr(0, 5), /*last=*/false));
  }
  ExpectServes(server);
}

TEST(HostileClientTest, AClientThatIsSilentAndAnswersNoPingIsDisconnected) {
  TestServer server({.keepalive = absl::Milliseconds(300)});
  RawClient silent(server.path), half(server.path), watching(server.path);
  half.Send(absl::StrCat(RawClient::Preface(), RawClient::Headers(1, kGetStatus)));
  watching.Send(absl::StrCat(RawClient::Preface(), RawClient::Headers(1, kWatchEvents),
                             RawClient::Data(1, RawClient::Message(""), true)));
  const std::unique_ptr<v1::VmControl::Stub> stub = server.NewStub();
  TestContext context;
  const auto reader = stub->WatchEvents(&context, v1::WatchEventsRequest());
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));

  EXPECT_TRUE(silent.AwaitClose(kCallTimeout));
  EXPECT_TRUE(half.AwaitClose(kCallTimeout));
  EXPECT_TRUE(watching.AwaitClose(kCallTimeout));
  // gRPC's own client answers pings: it may be silent for any time.
  server.vm.AppendEvent();
  EXPECT_TRUE(reader->Read(&event));
}

TEST(HostileClientTest, GarbageEndsOnlyItsOwnConnection) {
  TestServer server;
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    std::string garbage = i % 2 == 0 ? "" : RawClient::Preface();
    const size_t size = random() % 3000;
    for (size_t j = 0; j < size; ++j) garbage.push_back(static_cast<char>(random()));
    RawClient client(server.path);
    client.Send(garbage);
  }
  // Well-formed frames in an order that makes no sense.
  for (int i = 0; i < 200; ++i) {
    RawClient client(server.path);
    client.Send(absl::StrCat(RawClient::Preface(), RawClient::Headers(1, kAttachConsole)));
    for (int j = 0; j < 10; ++j) {
      client.Send(RawClient::Frame(static_cast<uint8_t>(random() % 12),
                                   static_cast<uint8_t>(random()), random() % 6,
                                   std::string(random() % 64, static_cast<char>(random()))));
    }
  }
  RawClient http1(server.path);
  http1.Send("GET / HTTP/1.1\r\nHost: vm\r\n\r\n");
  EXPECT_TRUE(http1.AwaitClose(kCallTimeout));
  ExpectServes(server);
}

TEST(HostileClientTest, CallsBeyondAConnectionsLimitAreRefused) {
  TestServer server({.streams = 10});
  server.vm.HoldAnswers();
  RawClient client(server.path);
  client.Send(RawClient::Preface());
  for (uint32_t i = 0; i < 2000; ++i) {
    if (!client.Send(absl::StrCat(RawClient::Headers(2 * i + 1, kWatchEvents),
                                  RawClient::Data(2 * i + 1, RawClient::Message(""), true)))) {
      break;
    }
  }
  ExpectServes(server);
}

TEST(HostileClientTest, ATooLargeMessageIsRefusedByStatus) {
  TestServer server;
  const std::unique_ptr<v1::VmControl::Stub> stub = server.NewStub();
  TestContext context;
  v1::GetDeviceRequest request;
  request.set_name(std::string(1 << 20, 'x'));
  v1::Device device;
  const grpc::Status status = stub->GetDevice(&context, request, &device);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("65536"));

  TestContext console_context;
  const std::unique_ptr<Console> console = stub->AttachConsole(&console_context);
  v1::ConsoleInput input;
  input.set_data(std::string(1 << 20, 'x'));
  console->Write(input);
  EXPECT_FALSE(console->Finish().ok());
  EXPECT_TRUE(GetStatus(*stub).ok());
}

TEST(HostileClientTest, BytesThatAreNotAMessageAreRefusedByStatus) {
  TestServer server;
  const std::shared_ptr<grpc::Channel> channel = server.Connect();
  const google::protobuf::ServiceDescriptor* const service =
      v1::VmStatus::descriptor()->file()->FindServiceByName("VmControl");
  for (int i = 0; i < service->method_count(); ++i) {
    for (const std::string& bytes :
         {std::string("\x0a\xff\xff\xff\xff\x0f"), std::string(1000, '\xff')}) {
      const grpc::Slice slice(bytes);
      const grpc::ByteBuffer request(&slice, 1);
      grpc::ByteBuffer reply;
      TestContext context;
      grpc::GenericStub stub(channel);
      const std::string path =
          absl::StrCat("/", service->full_name(), "/", service->method(i)->name());
      grpc::CompletionQueue queue;
      const auto call = stub.PrepareCall(&context, path, &queue);
      // Reads the answers until the call ends, for every kind of call.
      bool ok = false;
      void* tag = nullptr;
      call->StartCall(nullptr);
      ASSERT_TRUE(queue.Next(&tag, &ok));
      call->WriteLast(request, grpc::WriteOptions(), nullptr);
      ASSERT_TRUE(queue.Next(&tag, &ok));
      grpc::Status status;
      do {
        call->Read(&reply, nullptr);
        ASSERT_TRUE(queue.Next(&tag, &ok));
      } while (ok);
      call->Finish(&status, nullptr);
      ASSERT_TRUE(queue.Next(&tag, &ok));
      queue.Shutdown();
      while (queue.Next(&tag, &ok)) {
      }
      EXPECT_FALSE(status.ok()) << path;
      EXPECT_NE(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << path;
    }
  }
  EXPECT_TRUE(server.vm.calls().empty()) << server.vm.calls()[0];
  ExpectServes(server);
}

TEST(HostileClientTest, AConsoleClientThatFloodsWaits) {
  TestServer server;
  server.vm.console().SetRoom(1);
  const std::unique_ptr<v1::VmControl::Stub> stub = server.NewStub();
  const std::unique_ptr<v1::VmControl::Stub> other = server.NewStub();
  ExpectServes(server);
  TestContext context;
  const std::unique_ptr<Console> console = stub->AttachConsole(&context);
  const size_t before = PrivateBytes();
  std::thread flood([&] {
    v1::ConsoleInput input;
    input.set_data(std::string(32 * 1024, 'x'));
    while (console->Write(input)) {
    }
  });
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(GetStatus(*other).ok());
  EXPECT_LT(PrivateBytes(), before + kOverhead * (4000 << 10));
  EXPECT_EQ(server.vm.console().typed(), "x");
  context.TryCancel();
  flood.join();
}

TEST(HostileClientTest, ClientsThatVanishLeaveNothing) {
  TestServer server({.streams = 1, .long_calls = 1});
  server.vm.HoldAnswers();
  const absl::Time deadline = absl::Now() + kCallTimeout;
  const std::unique_ptr<v1::VmControl::Stub> stub = server.NewStub();
  for (int i = 0; i < 20; ++i) {
    {
      const std::unique_ptr<RawClient> vanishing = StartRaw(server, kPause);
    }
    {
      const std::unique_ptr<RawClient> vanishing = StartRaw(server, kAttachConsole);
    }
    {
      const std::unique_ptr<RawClient> vanishing = StartRaw(server, kWatchEvents);
    }
  }
  while (true) {
    TestContext context;
    v1::Event event;
    if (stub->WatchEvents(&context, v1::WatchEventsRequest())->Read(&event)) break;
    ASSERT_LT(absl::Now(), deadline);
  }
  EXPECT_EQ(server.vm.console().clients(), 0u);
  server.vm.AnswerAll(absl::OkStatus());  // the calls have ended already
  ExpectServes(server);
}

}  // namespace
}  // namespace bulkhead::vmm
