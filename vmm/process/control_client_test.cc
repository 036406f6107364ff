// ControlClient against peers that speak just enough HTTP/2 to be hostile.
#include "vmm/process/control_client.h"

#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <functional>
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
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/device_control.pb.h"

namespace bulkhead::vmm {
namespace {

// Long, since the machine may be busy: a call that is not cut never returns.
constexpr absl::Duration kBounded = absl::Seconds(30);
constexpr absl::Duration kSoon = absl::Milliseconds(200);

enum FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kSettings = 4,
  kPing = 6,
};
constexpr uint8_t kEndStream = 1;
constexpr uint8_t kEndHeaders = 4;

std::string BigEndian(uint32_t value, int bytes) {
  std::string text;
  while (bytes-- > 0) text.push_back(static_cast<char>(value >> (8 * bytes)));
  return text;
}

std::string Frame(FrameType type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  return absl::StrCat(BigEndian(static_cast<uint32_t>(payload.size()), 3),
                      std::string(1, static_cast<char>(type)),
                      std::string(1, static_cast<char>(flags)), BigEndian(stream, 4), payload);
}

// A header field without indexing (RFC 7541, 6.2.2). Name and value are shorter than 127 bytes.
std::string Field(absl::string_view name, absl::string_view value) {
  return absl::StrCat(std::string(1, '\0'), std::string(1, static_cast<char>(name.size())), name,
                      std::string(1, static_cast<char>(value.size())), value);
}

std::string Message(absl::string_view bytes, bool compressed = false) {
  return absl::StrCat(std::string(1, compressed ? 1 : 0),
                      BigEndian(static_cast<uint32_t>(bytes.size()), 4), bytes);
}

std::string AnswerHeaders(uint32_t stream, absl::string_view more = "") {
  return Frame(
      kHeaders, kEndHeaders, stream,
      absl::StrCat(Field(":status", "200"), Field("content-type", "application/grpc"), more));
}

std::string Trailers(uint32_t stream, absl::string_view code) {
  return Frame(kHeaders, kEndHeaders | kEndStream, stream, Field("grpc-status", code));
}

std::string Answer(uint32_t stream, absl::string_view message, absl::string_view more = "") {
  return absl::StrCat(AnswerHeaders(stream, more), Frame(kData, 0, stream, message),
                      Trailers(stream, "0"));
}

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

size_t ResidentBytes() {
  long pages = 0;  // NOLINT(google-runtime-int): %ld
  std::unique_ptr<FILE, int (*)(FILE*)> statm(fopen("/proc/self/statm", "r"), fclose);
  EXPECT_EQ(fscanf(statm.get(), "%*d %ld", &pages), 1);
  return static_cast<size_t>(pages) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
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

  // Call on the thread. Blocks while the vmm does not read.
  bool Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  // Reads until a whole call has arrived. Returns its stream, or 0.
  uint32_t AwaitCall() {
    if (!preface_read_ && !Read(24)) return 0;
    preface_read_ = true;
    while (true) {
      if (!Read(9)) return 0;
      const auto byte = [this](int i) { return static_cast<uint8_t>(read_[i]); };
      const size_t size = byte(0) << 16 | byte(1) << 8 | byte(2);
      const uint8_t type = byte(3);
      const uint8_t flags = byte(4);
      const uint32_t stream = byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8);
      if (size > 0 && !Read(size)) return 0;
      if (type == kData && (flags & kEndStream) != 0) return stream;
    }
  }
  void ReadAndDropAll() {
    while (Read(1)) {
    }
  }

 private:
  bool Read(size_t bytes) {
    read_.resize(bytes);
    for (size_t done = 0; done < bytes;) {
      const ssize_t n = recv(socket_.get(), read_.data() + done, bytes - done, 0);
      if (n <= 0) return false;
      done += static_cast<size_t>(n);
    }
    return true;
  }

  UniqueFd socket_;
  std::unique_ptr<ControlClient> client_;
  bool preface_read_ = false;
  std::string read_;
  std::thread thread_;
};

std::string Many(const std::string& frame) {
  std::string frames;
  while (frames.size() < 32768) frames += frame;
  return frames;
}

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
    for (int calls = 0; calls < 50 && !peer.client().cut(); ++calls) {
      EXPECT_LT(TimeOf([&] {
                  ControlCall call(kSoon);
                  EXPECT_TRUE(absl::IsDeadlineExceeded(peer.client().Heartbeat(call).status()));
                }),
                kBounded);
    }
    EXPECT_TRUE(peer.client().cut());
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
  EXPECT_FALSE(honest.client().cut());
}

TEST(ControlClientTest, ACallThatIsOnlyLateDoesNotCutTheConnection) {
  Peer peer([](Peer& peer) {
    const uint32_t late = peer.AwaitCall();
    const uint32_t next = peer.AwaitCall();
    peer.Send(Answer(late, Message("")));
    peer.Send(Answer(next, Message("\x08\x07")));  // generation 7
    peer.AwaitCall();
  });
  ControlCall late(kSoon);
  EXPECT_TRUE(absl::IsDeadlineExceeded(peer.client().Heartbeat(late).status()));
  ControlCall next(kBounded);
  const absl::StatusOr<v1::HeartbeatReply> reply = peer.client().Heartbeat(next);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->generation(), 7u);
  EXPECT_FALSE(peer.client().cut());
}

TEST(ControlClientTest, ACompressedAnswerIsNotDecompressed) {
  // An unknown field of 240 MiB: any parser would accept the reply.
  constexpr size_t kUnpacked = size_t{240} << 20;
  std::string head = "\x08\x07\x9a\x06";  // generation 7; field 99, of so many bytes:
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
  const size_t before = ResidentBytes();
  ControlCall call(kBounded);
  EXPECT_FALSE(peer.client().Heartbeat(call).ok());
  EXPECT_LT(ResidentBytes(), before + (32u << 20));
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
  const size_t before = ResidentBytes();
  ControlCall call(absl::Seconds(3));
  EXPECT_FALSE(peer.client().Heartbeat(call).ok());
  EXPECT_LT(ResidentBytes(), before + (24u << 20));
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
