// ControlClient against peers that speak just enough HTTP/2 to be hostile.
#include "vmm/process/control_client.h"

#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/steady_time.h"
#include "base/testing/http2.h"
#include "base/testing/memory_use.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/device_control.pb.h"

namespace bulkhead::vmm {
namespace {

using namespace http2;  // NOLINT(google-build-using-namespace)

// Long, since the machine may be busy: a call that is not cut never returns.
constexpr absl::Duration kBounded = absl::Seconds(30);
constexpr absl::Duration kSoon = absl::Milliseconds(200);

// gzip(1) of `head` and `zeros` zero bytes.
std::string Compressed(const std::string& head, size_t zeros) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, /*window: gzip*/ 31, 9, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(1 << 20, '\0');
  std::string chunk = head;
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  while (true) {
    stream.next_in = reinterpret_cast<Bytef*>(chunk.data());
    stream.avail_in = static_cast<uInt>(chunk.size());
    if (zeros == 0) break;
    EXPECT_EQ(deflate(&stream, Z_NO_FLUSH), Z_OK);
    const size_t next = std::min<size_t>(zeros, 1 << 20);
    chunk.assign(next, '\0');
    zeros -= next;
  }
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// gRPC keeps eventfds for later calls.
size_t OpenSockets() {
  size_t count = 0;
  for (const auto& fd : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(fd.path(), gone).string();
    if (absl::StartsWith(target, "socket:")) ++count;
  }
  return count;
}

// The device's end of a control connection, on its own thread.
class Peer {
 public:
  // `serve` must end when Send() or AwaitCall() is false: the vmm's end was closed or shut down.
  explicit Peer(const std::function<void(Peer&)>& serve) {
    auto sockets = *CreateSocketPair(SOCK_STREAM);
    socket_ = std::move(sockets.second);
    server_ = std::make_unique<ServerEnd>(socket_.get());
    client_ = *ControlClient::Create(std::move(sockets.first));
    thread_ = std::thread([this, serve] {
      Send(Frame(kSettings, 0, 0, ""));
      serve(*this);
    });
  }
  ~Peer() {
    DropClient();
    shutdown(socket_.get(), SHUT_RDWR);
    thread_.join();
  }

  ControlClient& client() { return *client_; }
  void DropClient() { client_.reset(); }

  // Call on the thread.
  bool Send(absl::string_view bytes) { return server_->Send(bytes); }
  uint32_t AwaitCall() { return server_->AwaitCall(); }
  void ReadAndDropAll() { server_->ReadAndDropAll(); }

 private:
  UniqueFd socket_;
  std::unique_ptr<ServerEnd> server_;
  std::unique_ptr<ControlClient> client_;
  std::thread thread_;
};

std::function<void(Peer&)> FloodOf(const std::string& frame) {
  return [frames = Many(frame)](Peer& peer) {
    while (peer.Send(frames)) {
    }
  };
}
const std::string& PingFrame() {
  static const auto* const frame = new std::string(Frame(kPing, 0, 0, "12345678"));
  return *frame;
}

absl::Duration TimeOf(const std::function<void()>& work) {
  const absl::Time begin = SteadyNow();
  work();
  return SteadyNow() - begin;
}

class FloodTest : public testing::TestWithParam<std::string> {};

TEST_P(FloodTest, ACallReturnsAndTheConnectionIsCut) {
  const size_t before = OpenSockets();
  {
    Peer peer(FloodOf(GetParam()));
    // The first call may be written before the socket is full. A later one waits in gRPC behind
    // data that cannot be written.
    for (int calls = 0; calls < 50 && peer.client().why_cut().empty(); ++calls) {
      EXPECT_LT(TimeOf([&] {
                  ControlCall call(kSoon);
                  EXPECT_FALSE(peer.client().Heartbeat(call).ok());
                }),
                kBounded);
    }
    EXPECT_NE(peer.client().why_cut(), "");
    ControlCall call(kBounded);
    EXPECT_TRUE(absl::IsUnavailable(peer.client().Heartbeat(call).status()));
  }
  // gRPC closes its descriptor a moment later.
  const absl::Time deadline = SteadyNow() + kBounded;
  while (OpenSockets() > before && SteadyNow() < deadline) absl::SleepFor(kSoon);
  EXPECT_LE(OpenSockets(), before);
}

TEST_P(FloodTest, ACallThatIsCancelledReturns) {
  Peer peer(FloodOf(GetParam()));
  ControlCall call(absl::Hours(1));
  std::thread other([&] {
    absl::SleepFor(kSoon);  // usually until the middle of the call; earlier is fine, too
    call.Cancel();
  });
  EXPECT_LT(TimeOf([&] { EXPECT_FALSE(peer.client().Heartbeat(call).ok()); }), kBounded);
  other.join();
}

TEST_P(FloodTest, TheClientCanBeDestroyed) {
  Peer peer(FloodOf(GetParam()));
  ControlCall call(kSoon);
  EXPECT_FALSE(peer.client().Heartbeat(call).ok());
  EXPECT_LT(TimeOf([&] { peer.DropClient(); }), kBounded);
}

INSTANTIATE_TEST_SUITE_P(Frames, FloodTest,
                         testing::Values(PingFrame(), Frame(kSettings, 0, 0, "")),
                         [](const auto& info) { return info.index == 0 ? "Ping" : "Settings"; });

TEST(ControlClientTest, AFloodThatReadsItsAnswersDoesNotBlockACall) {
  Peer peer([](Peer& peer) {
    std::thread reader([&] { peer.ReadAndDropAll(); });
    FloodOf(PingFrame())(peer);
    reader.join();
  });
  EXPECT_LT(TimeOf([&] {
              ControlCall call(kSoon);
              EXPECT_FALSE(peer.client().Heartbeat(call).ok());
            }),
            kBounded);
}

TEST(ControlClientTest, AFloodedConnectionDoesNotDelayAnother) {
  Peer liar(FloodOf(PingFrame()));
  Peer honest([](Peer& peer) {
    while (const uint32_t stream = peer.AwaitCall()) {
      if (!peer.Send(Answer(stream, Message("")))) return;
    }
  });
  std::thread other([&] {
    ControlCall call(absl::Seconds(2));
    EXPECT_FALSE(liar.client().Heartbeat(call).ok());
  });
  for (int i = 0; i < 100; ++i) {
    ControlCall call(kBounded);
    EXPECT_TRUE(honest.client().Heartbeat(call).ok());
  }
  other.join();
  EXPECT_EQ(honest.client().why_cut(), "");
}

TEST(ControlClientTest, ACallThatIsOnlyLateDoesNotCutTheConnection) {
  Peer peer([](Peer& peer) {
    const uint32_t late = peer.AwaitCall();
    const uint32_t next = peer.AwaitCall();
    peer.Send(Answer(late, Message("")));
    peer.Send(Answer(next, Message("\x12\x01m")));  // the model "m"
    peer.AwaitCall();
  });
  ControlCall late(kSoon);
  EXPECT_TRUE(absl::IsDeadlineExceeded(peer.client().Heartbeat(late).status()));
  ControlCall next(kBounded);
  const absl::StatusOr<v1::DeviceInfo> reply = peer.client().Describe(next);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->model(), "m");
  EXPECT_EQ(peer.client().why_cut(), "");
}

TEST(ControlClientTest, ACompressedAnswerIsNotDecompressed) {
  // An unknown field of 240 MiB: any parser would accept the reply.
  constexpr size_t kUnpacked = size_t{240} << 20;
  std::string head = "\x9a\x06";  // field 99, of so many bytes:
  for (size_t left = kUnpacked; left > 0; left >>= 7) {
    head.push_back(static_cast<char>((left & 0x7f) | (left > 0x7f ? 0x80 : 0)));
  }
  const std::string bomb = Compressed(head, kUnpacked);
  ASSERT_LT(bomb.size(), 256u << 10);
  Peer peer([&](Peer& peer) {
    while (const uint32_t stream = peer.AwaitCall()) {
      peer.Send(AnswerHeaders(stream, Field("grpc-encoding", "gzip")));
      const std::string message = Message(bomb, /*compressed=*/true);
      for (size_t sent = 0; sent < message.size(); sent += 16384) {
        peer.Send(Frame(kData, 0, stream, message.substr(sent, 16384)));
      }
      peer.Send(Trailers(stream, "0"));
    }
  });
  const size_t before = PrivateBytes();
  ControlCall call(kBounded);
  EXPECT_FALSE(peer.client().Heartbeat(call).ok());
  EXPECT_LT(PrivateBytes(), before + (32u << 20));
}

TEST(ControlClientTest, AMessageAnnouncedAsHugeIsNotBuffered) {
  Peer peer([](Peer& peer) {
    const uint32_t stream = peer.AwaitCall();
    peer.Send(AnswerHeaders(stream));
    std::string payload(16384, 'x');
    payload.replace(0, 5, std::string("\0\x7f\xff\xff\xff", 5));
    // The peer ignores flow-control windows.
    std::thread reader([&] { peer.ReadAndDropAll(); });
    while (peer.Send(Frame(kData, 0, stream, payload))) {
    }
    reader.join();
  });
  const size_t before = PrivateBytes();
  ControlCall call(absl::Seconds(3));
  EXPECT_FALSE(peer.client().Heartbeat(call).ok());
  EXPECT_LT(PrivateBytes(), before + (24u << 20));
}

// What a process can make of the bytes that it may send: the longest answer's.
TEST(ControlClientTest, NoAnswerCostsMuchMemory) {
  const std::string small = Field("x", "");
  const std::string large = IndexedField("x", std::string(4000, 'x'));
  const auto block = [](const std::string& first, const std::string& fields) {
    std::string block = first;
    while (block.size() + fields.size() <= kMaxFrameBytes) block += fields;
    return block;
  };
  const struct {
    const char* name;
    std::string first;  // of the call's stream, before all others
    uint8_t type;
    std::string payload;
  } kAttacks[] = {
      {"small fields", Field(":status", "200"), kContinuation, block("", small)},
      {"fields of 100 bytes", Field(":status", "200"), kContinuation,
       block("", Field("x", std::string(100, 'x')))},
      {"the same large field", Field(":status", "200") + large, kContinuation,
       block("", IndexOf(62))},
      {"the same large field, of a name that gRPC knows",
       Field(":status", "200") + IndexedField("user-agent", std::string(4000, 'x')), kContinuation,
       block("", IndexOf(62))},
      {"references to a small field, as many as a frame may have",
       Field(":status", "200") + IndexedField("x", ""), kContinuation, std::string(480, '\xbe')},
      {"an endless field", Field(":status", "200"), kContinuation,
       std::string(kMaxFrameBytes, '\0')},
      {"empty continuations", Field(":status", "200"), kContinuation, ""},
      {"headers of other streams", Field(":status", "200"), kHeaders, ""},
      {"pings", Field(":status", "200"), kPing, std::string(8, 'p')},
      {"settings", Field(":status", "200"), kSettings, ""},
      {"data of one byte", Field(":status", "200"), kData, "x"},
      {"empty data", Field(":status", "200"), kData, ""},
      {"an unknown frame", Field(":status", "200"), 99, std::string(kMaxFrameBytes, 'x')},
  };
  for (const auto& attack : kAttacks) {
    const size_t before = PrivateBytes();
    const absl::Duration time = TimeOf([&] {
      Peer peer([&](Peer& peer) {
        const uint32_t stream = peer.AwaitCall();
        const bool goes_on = attack.type == kContinuation;
        peer.Send(Frame(kHeaders, goes_on ? 0 : kEndHeaders, stream, attack.first));
        const bool of_connection = attack.type == kPing || attack.type == kSettings;
        const std::string frame = Frame(attack.type, 0, of_connection ? 0 : stream, attack.payload);
        const std::string frames = attack.payload.size() < 1000 ? Many(frame) : frame;
        for (size_t sent = attack.first.size() + 100; sent + frames.size() < (256 << 10);
             sent += frames.size()) {
          if (!peer.Send(frames)) break;
        }
        peer.ReadAndDropAll();
      });
      ControlCall call(kSoon);
      EXPECT_FALSE(peer.client().Describe(call).ok());
    });
    const size_t after = PrivateBytes();
    const size_t growth = after - std::min(before, after);
    std::cout << attack.name << ": " << (growth >> 10) << " KiB, " << time << "\n";
    EXPECT_LT(growth, 32u << 20) << attack.name;
  }
}

TEST(ControlClientTest, ACallNeedsNoFreeDescriptor) {
  Peer peer([](Peer& peer) {
    for (int i = 0; i < 3; ++i) peer.Send(Answer(peer.AwaitCall(), Message("")));
    peer.AwaitCall();
  });
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {.rlim_cur = 3, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  for (int i = 0; i < 3; ++i) {
    ControlCall call(kBounded);
    const absl::Status status = peer.client().Heartbeat(call).status();
    EXPECT_TRUE(status.ok()) << status;
  }
  ControlCall silence(kSoon);
  EXPECT_TRUE(absl::IsDeadlineExceeded(peer.client().Heartbeat(silence).status()));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(ControlClientTest, AnAnswerThatDoesNotParseIsNotReportedAsUnimplemented) {
  Peer peer([](Peer& peer) {
    peer.Send(Answer(peer.AwaitCall(), Message("\xff\xff\xff")));
    peer.Send(AnswerHeaders(peer.AwaitCall()));  // never a message
    const uint32_t unknown = peer.AwaitCall();
    peer.Send(Frame(kHeaders, kEndHeaders | kEndStream, unknown,
                    absl::StrCat(Field(":status", "200"), Field("content-type", "application/grpc"),
                                 Field("grpc-status", "12"))));
    peer.AwaitCall();
  });
  ControlCall garbage(kBounded);
  EXPECT_TRUE(absl::IsDataLoss(peer.client().Heartbeat(garbage).status()));
  ControlCall silence(kSoon);
  EXPECT_TRUE(absl::IsDeadlineExceeded(peer.client().Heartbeat(silence).status()));
  ControlCall unknown(kBounded);
  const absl::Status status = peer.client().Heartbeat(unknown).status();
  EXPECT_TRUE(absl::IsUnimplemented(status));
  EXPECT_NE(status.message().find("from one source"), absl::string_view::npos);
}

}  // namespace
}  // namespace bulkhead::vmm

int main(int argc, char** argv) {
  bulkhead::vmm::ControlClient::IsolateConnections();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
