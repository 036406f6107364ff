#include "vmm/supervisor/heartbeats.h"

#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/server_posix.h"
#include "grpcpp/support/byte_buffer.h"
#include "gtest/gtest.h"
#include "proto/device_control.pb.h"
#include "vmm/config/vm_spec.h"
#include "vmm/process/control_client.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kGeneration = 3;

// A process that answers every call with the same bytes, or the same error.
class Process : public grpc::CallbackGenericService {
 public:
  Process() {
    auto sockets = *CreateSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(this);
    server_ = builder.BuildAndStart();
    grpc::AddInsecureChannelFromFd(server_.get(), sockets.second.release());
    client_ = *ControlClient::Create(std::move(sockets.first));
  }
  ~Process() override {
    client_.reset();
    server_->Shutdown();
  }
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Answer(bytes, status);
  }
  ControlClient& client() { return *client_; }

  // To be set between calls.
  std::string bytes;
  grpc::Status status;

 private:
  class Answer : public grpc::ServerGenericBidiReactor {
   public:
    Answer(const std::string& bytes, const grpc::Status& status) {
      if (!status.ok()) {
        Finish(status);
        return;
      }
      const grpc::Slice slice(bytes);
      buffer_ = grpc::ByteBuffer(&slice, 1);
      StartWriteAndFinish(&buffer_, {}, grpc::Status::OK);
    }
    void OnDone() override { delete this; }

   private:
    grpc::ByteBuffer buffer_;
  };

  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ControlClient> client_;
};

class HeartbeatsTest : public testing::Test {
 protected:
  HeartbeatsTest() { heartbeats_.Begin(kGeneration); }
  std::string Send() {
    return heartbeats_.Send(process_.client(), [] { return uint64_t{0}; });
  }
  static std::string Reply(uint64_t generation) {
    v1::HeartbeatReply reply;
    reply.set_generation(generation);
    return reply.SerializeAsString();
  }
  // Three in a row are too many.
  void ExpectMisses() {
    EXPECT_EQ(Send(), "");
    EXPECT_EQ(Send(), "");
    EXPECT_EQ(Send(), "it did not answer its heartbeats");
    EXPECT_EQ(report_.device().heartbeat().missed_in_a_row(), 3u);
  }

  const DeviceSpec spec_ = [] {
    DeviceSpec spec;
    spec.name = "disk0";
    spec.heartbeat = {.interval = absl::Seconds(30), .misses = 3};
    return spec;
  }();
  EventLog events_;
  DeviceReport report_{spec_, events_};
  Heartbeats heartbeats_{spec_.heartbeat, spec_.access_timeout, *Attention::Create(), report_};
  Process process_;
};

TEST_F(HeartbeatsTest, AnAnswerIsAnAnswer) {
  process_.bytes = Reply(kGeneration);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Send(), "");
  EXPECT_EQ(report_.device().heartbeat().answered(), 5u);
}

TEST_F(HeartbeatsTest, AnAnswerThatDoesNotParseIsAMiss) {
  process_.bytes = "\xff\xff\xff";
  ExpectMisses();
}

TEST_F(HeartbeatsTest, AnAnswerOfAnotherProcessIsAMiss) {
  process_.bytes = Reply(kGeneration - 1);
  ExpectMisses();
}

TEST_F(HeartbeatsTest, ToKnowNoHeartbeatIsAMissAndEndsNoSupervision) {
  process_.status = grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "");
  ExpectMisses();
  EXPECT_NE(heartbeats_.next(), absl::InfiniteFuture());
}

TEST_F(HeartbeatsTest, AnAnswerEndsARowOfMisses) {
  process_.bytes = "\xff\xff\xff";
  Send();
  Send();
  process_.bytes = Reply(kGeneration);
  EXPECT_EQ(Send(), "");
  process_.bytes = "\xff\xff\xff";
  ExpectMisses();
}

}  // namespace
}  // namespace bulkhead::vmm

int main(int argc, char** argv) {
  bulkhead::vmm::ControlClient::IsolateConnections();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
