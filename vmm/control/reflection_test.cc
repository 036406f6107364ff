#include "vmm/control/reflection.h"

#include <memory>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.pb.h"
#include "gtest/gtest.h"
#include "vmm/control/testing/reflection_client.h"
#include "vmm/control/testing/test_server.h"

namespace bulkhead::vmm {
namespace {

using ::grpc::reflection::v1alpha::ServerReflection;
using ::grpc::reflection::v1alpha::ServerReflectionRequest;
using ::grpc::reflection::v1alpha::ServerReflectionResponse;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ReflectTest, AFileComesWithItsImports) {
  ServerReflectionRequest request;
  request.set_file_containing_symbol("bulkhead.v1.VmControl");
  const ServerReflectionResponse response = Reflect(request);
  EXPECT_EQ(response.original_request().file_containing_symbol(), "bulkhead.v1.VmControl");
  std::set<std::string> names;
  for (const std::string& bytes : response.file_descriptor_response().file_descriptor_proto()) {
    google::protobuf::FileDescriptorProto file;
    ASSERT_TRUE(file.ParseFromString(bytes));
    EXPECT_TRUE(names.insert(file.name()).second) << file.name() << " comes twice";
  }
  EXPECT_THAT(names, ElementsAre("google/protobuf/duration.proto",
                                 "google/protobuf/timestamp.proto", "proto/vm_control.proto"));
  request.set_file_by_filename("proto/vm_control.proto");
  EXPECT_EQ(Reflect(request).file_descriptor_response().file_descriptor_proto_size(), 3);
}

TEST(ReflectTest, MethodsAndMessagesAreSymbolsToo) {
  for (const char* symbol :
       {"bulkhead.v1.VmControl.GetStatus", "bulkhead.v1.VmStatus", "grpc.health.v1.Health"}) {
    ServerReflectionRequest request;
    request.set_file_containing_symbol(symbol);
    EXPECT_TRUE(Reflect(request).has_file_descriptor_response()) << symbol;
  }
}

TEST(ReflectTest, UnknownOrUnsupportedRequestsAreErrors) {
  ServerReflectionRequest request;
  request.set_file_containing_symbol("no.such.Symbol");
  EXPECT_EQ(Reflect(request).error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(Reflect(request).error_response().error_message(), HasSubstr("no.such.Symbol"));
  request.set_file_by_filename("/etc/passwd");
  EXPECT_EQ(Reflect(request).error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_all_extension_numbers_of_type("bulkhead.v1.VmStatus");
  EXPECT_EQ(Reflect(request).error_response().error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Reflect(ServerReflectionRequest()).error_response().error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST(ReflectionServiceTest, AClientWithoutAnyProtoCanCall) {
  TestServer server;
  ReflectionClient client(server.Connect());
  const auto services = client.ListServices();
  ASSERT_TRUE(services.ok()) << services.status();
  EXPECT_THAT(*services, ElementsAre("bulkhead.v1.VmControl", "grpc.health.v1.Health",
                                     "grpc.reflection.v1alpha.ServerReflection"));
  const auto status = client.Call("bulkhead.v1.VmControl.GetStatus", "{}");
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_THAT(*status, HasSubstr(R"("name":"fake","state":"RUNNING")"));
  const auto device = client.Call("bulkhead.v1.VmControl.GetDevice", R"({"name":"disk0"})");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_THAT(*device, HasSubstr(R"("name":"disk0")"));
  const auto unknown = client.Call("bulkhead.v1.VmControl.GetDevice", R"({"name":"disk9"})");
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("there is no device 'disk9'"));
  const auto health = client.Call("grpc.health.v1.Health.Check", "{}");
  ASSERT_TRUE(health.ok()) << health.status();
  EXPECT_THAT(*health, HasSubstr("SERVING"));
}

TEST(ReflectionServiceTest, OneStreamTakesManyRequestsAndEndsWithTheServer) {
  TestServer server({.drain_timeout = absl::Seconds(10)});
  const auto stub = ServerReflection::NewStub(server.Connect());
  TestContext context;
  const auto stream = stub->ServerReflectionInfo(&context);
  ServerReflectionRequest request;
  request.set_list_services("");
  ServerReflectionResponse response;
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(stream->Write(request));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.list_services_response().service_size(), 3);
  }
  server.server.reset();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace bulkhead::vmm
