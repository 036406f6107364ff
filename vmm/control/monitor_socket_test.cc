// What the read-only socket serves, and what it refuses.

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "gtest/gtest.h"
#include "proto/vm_control.grpc.pb.h"
#include "proto/vm_control.pb.h"
#include "vmm/control/testing/fake_vm.h"
#include "vmm/control/testing/test_server.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

enum class Kind { kReads, kChanges };

// Every method of VmControl. Does a new one only read? Then ReadOnlyVm passes on what it needs.
const std::map<std::string, Kind> kMethods = {
    {"GetStatus", Kind::kReads},       {"Shutdown", Kind::kChanges},
    {"Wake", Kind::kChanges},          {"Stop", Kind::kChanges},
    {"Pause", Kind::kChanges},         {"Resume", Kind::kChanges},
    {"ListDevices", Kind::kReads},     {"GetDevice", Kind::kReads},
    {"RestartDevice", Kind::kChanges}, {"ResetDevice", Kind::kChanges},
    {"ResizeDisk", Kind::kChanges},    {"LimitDevice", Kind::kChanges},
    {"StopDevice", Kind::kChanges},    {"StartDevice", Kind::kChanges},
    {"SetDeviceLink", Kind::kChanges}, {"WatchEvents", Kind::kReads},
    {"GetMetrics", Kind::kReads},      {"AttachConsole", Kind::kChanges},
    {"GetBalloon", Kind::kReads},      {"SetBalloon", Kind::kChanges},
    {"Trace", Kind::kChanges},
};

const google::protobuf::ServiceDescriptor& Service() {
  return *v1::VmStatus::descriptor()->file()->FindServiceByName("VmControl");
}

// Calls any method with one message whose first field is `name`, which fits all requests: those
// that have another first field, or none, ignore it. OK: an answer came.
grpc::Status CallWith(TestServer& server, const std::string& method, const std::string& name) {
  grpc::GenericStub stub(server.Connect());
  grpc::CompletionQueue queue;
  TestContext context;
  const auto call = stub.PrepareCall(
      &context, absl::StrCat("/", v1::VmControl::service_full_name(), "/", method), &queue);
  const auto await = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  v1::GetDeviceRequest request;
  request.set_name(name);
  const grpc::Slice slice(request.SerializeAsString());
  call->StartCall(nullptr);
  EXPECT_TRUE(await());
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  await();  // false: the call has failed already
  call->WritesDone(nullptr);
  await();
  grpc::ByteBuffer reply;
  call->Read(&reply, nullptr);
  const bool answered = await();
  if (answered) context.TryCancel();  // a stream does not end
  grpc::Status status;
  call->Finish(&status, nullptr);
  await();
  return answered ? grpc::Status::OK : status;
}

TEST(MonitorSocketTest, EveryMethodIsListed) {
  for (int i = 0; i < Service().method_count(); ++i) {
    EXPECT_EQ(kMethods.count(Service().method(i)->name()), 1u) << Service().method(i)->name();
  }
  EXPECT_EQ(kMethods.size(), static_cast<size_t>(Service().method_count()));
}

TEST(MonitorSocketTest, WhatReadsIsServedAndWhatChangesIsRefused) {
  TestServer server({}, TestServer::Kind::kMonitor);
  for (const auto& [method, kind] : kMethods) {
    const std::string name = method == "AttachConsole" ? "console" : "disk0";
    const grpc::Status status = CallWith(server, method, name);
    if (kind == Kind::kReads) {
      EXPECT_TRUE(status.ok()) << method << ": " << status.error_message();
      continue;
    }
    EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << method;
    EXPECT_EQ(status.error_message(),
              absl::StrCat("the monitor socket is read-only: use the control socket, ",
                           TestServer::kControlSocket))
        << method;
  }
  EXPECT_THAT(server.vm.calls(), IsEmpty());
  EXPECT_EQ(server.vm.console().clients(), 0u);
}

TEST(MonitorSocketTest, TheControlSocketServesAll) {
  TestServer server;
  for (const auto& [method, kind] : kMethods) {
    // A console sends nothing by itself.
    if (method == "AttachConsole") continue;
    const grpc::Status status = CallWith(server, method, "disk0");
    EXPECT_TRUE(status.ok()) << method << ": " << status.error_message();
  }
}

TEST(MonitorSocketTest, MetricsNameTheSocket) {
  TestServer server({}, TestServer::Kind::kMonitor);
  TestContext context;
  v1::VmMetrics metrics;
  ASSERT_TRUE(server.NewStub()->GetMetrics(&context, v1::GetMetricsRequest(), &metrics).ok());
  const v1::MetricFamily& refused = metrics.families(metrics.families_size() - 1);
  EXPECT_EQ(refused.name(), "bulkhead_vm_refused_clients_total");
  ASSERT_EQ(refused.samples_size(), 1);
  EXPECT_EQ(refused.samples(0).labels().at("socket"), "monitor");
}

}  // namespace
}  // namespace bulkhead::vmm
