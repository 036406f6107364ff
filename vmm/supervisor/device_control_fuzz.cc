// The vmm's end of the control connection against a hostile process: what gRPC and protobuf make of
// its bytes, and what the vmm then makes of its answers. Inputs are of two kinds: a whole HTTP/2
// conversation with mutated frames, on a connection of its own; and a mutated message as the answer
// to one call, on a connection that lasts. The relay, gRPC and the parsers are those of the vmm.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/steady_time.h"
#include "base/testing/fuzz_input.h"
#include "base/testing/http2.h"
#include "base/unique_fd.h"
#include "google/protobuf/stubs/logging.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"
#include "vmm/config/vm_spec.h"
#include "vmm/device/device_description.h"
#include "vmm/process/control_client.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/vm/event_log.h"
#include "vmm/vm/vm_metrics.h"

#if defined(__SANITIZE_ADDRESS__)
#define BULKHEAD_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BULKHEAD_ASAN 1
#endif
#endif

namespace bulkhead::vmm {
namespace {

using namespace http2;  // NOLINT(google-build-using-namespace)

constexpr absl::Duration kLongestCall = absl::Seconds(20);  // the host may be busy
// Of a conversation, in which the call may get no answer.
constexpr absl::Duration kConversationTimeout = absl::Milliseconds(300);
[[maybe_unused]] constexpr size_t kMaxGrowthBytes = 64 << 20;
constexpr size_t kSpareEntries = 16;  // descriptors and threads that gRPC may come to have

size_t CountEntries(const char* folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

size_t ResidentBytes() {
  long pages = 0;  // NOLINT(google-runtime-int): %ld
  std::unique_ptr<FILE, int (*)(FILE*)> statm(fopen("/proc/self/statm", "r"), fclose);
  Require(fscanf(statm.get(), "%*d %ld", &pages) == 1);
  return static_cast<size_t>(pages) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

enum class Rpc { kDescribe, kHeartbeat, kReset, kQuiesce, kResume, kGetMetrics, kShutdown, kCount };

// What the inputs cost, printed at the end.
struct Figures {
  ~Figures() {
    fprintf(stderr, "answers:");
    for (const uint64_t count : answers) fprintf(stderr, " %lu", count);
    fprintf(stderr,
            "; conversations: %lu; calls: %lu, ok: %lu, longest %ld ms; cut: %lu\n"
            "resident: %zu KiB at first, %zu KiB at most; descriptors: %zu, %zu; threads: %zu, "
            "%zu\n",
            conversations, calls, accepted, absl::ToInt64Milliseconds(longest), cut,
            first_bytes >> 10, most_bytes >> 10, first_descriptors, most_descriptors, first_threads,
            most_threads);
  }

  // After some inputs, since the first ones set gRPC up.
  void Begin() {
    first_bytes = most_bytes = ResidentBytes();
    first_descriptors = most_descriptors = CountEntries("/proc/self/fd");
    first_threads = most_threads = CountEntries("/proc/self/task");
  }
  void Check() {
    most_bytes = std::max(most_bytes, ResidentBytes());
    most_descriptors = std::max(most_descriptors, CountEntries("/proc/self/fd"));
    most_threads = std::max(most_threads, CountEntries("/proc/self/task"));
    Require(most_descriptors <= first_descriptors + kSpareEntries, "descriptors leak");
    Require(most_threads <= first_threads + kSpareEntries, "threads leak");
#if !defined(BULKHEAD_ASAN)  // it keeps what is freed for a while
    Require(most_bytes <= first_bytes + kMaxGrowthBytes, "memory grows");
#endif
  }
  void Called(const absl::Status& status, absl::Duration time) {
    ++calls;
    accepted += status.ok() ? 1 : 0;
    longest = std::max(longest, time);
    Require(time < kLongestCall, "a call did not return");
  }

  std::array<uint64_t, static_cast<size_t>(Rpc::kCount)> answers{};
  uint64_t conversations = 0;
  uint64_t calls = 0;
  uint64_t accepted = 0;
  uint64_t cut = 0;
  absl::Duration longest;
  size_t first_bytes = 0, most_bytes = 0;
  size_t first_descriptors = 0, most_descriptors = 0;
  size_t first_threads = 0, most_threads = 0;
};

// The process's side: a thread that answers the calls of one connection after the other.
class Liar {
 public:
  Liar() : thread_([this] { Run(); }) { thread_.detach(); }

  // Returns the vmm's end of a new connection.
  UniqueFd Connect() {
    auto sockets = *CreateSocketPair(SOCK_STREAM | SOCK_NONBLOCK);
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &Liar::idle));
    socket_ = std::move(sockets.second);
    return std::move(sockets.first);
  }
  // The bytes of the next answer. A part that has a stream gets that of the call. If no further
  // call comes within `patience_ms` (-1: for ever), the connection ends.
  void SetAnswer(std::vector<std::pair<bool, std::string>> parts, int patience_ms) {
    absl::MutexLock lock(&mutex_);
    parts_ = std::move(parts);
    patience_ms_ = patience_ms;
  }

 private:
  bool idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !socket_.ok(); }
  bool connected() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return socket_.ok(); }

  void Run() {
    while (true) {
      int socket;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &Liar::connected));
        socket = socket_.get();
      }
      Serve(socket);
      absl::MutexLock lock(&mutex_);
      socket_.reset();
    }
  }

  void Serve(int socket) {
    ServerEnd end(socket);
    if (!end.Send(Frame(kSettings, 0, 0, ""))) return;
    while (const uint32_t stream = end.AwaitCall()) {
      std::string bytes;
      {
        absl::MutexLock lock(&mutex_);
        for (const auto& [has_stream, part] : parts_) {
          bytes += part;
          if (has_stream) bytes.replace(bytes.size() - part.size() + 5, 4, BigEndian(stream, 4));
        }
        end.set_patience_ms(patience_ms_);
      }
      if (!end.Send(bytes)) break;
    }
  }

  absl::Mutex mutex_;
  UniqueFd socket_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<bool, std::string>> parts_ ABSL_GUARDED_BY(mutex_);
  int patience_ms_ ABSL_GUARDED_BY(mutex_) = -1;
  std::thread thread_;
};

v1::DeviceInfo SomeDevice(FuzzInput& input) {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("virtio-blk");
  if (input.Byte() % 4 == 0) {
    v1::PlatformDevice& platform = *info.mutable_platform();
    platform.set_acpi_hid("PNP0501");
    platform.set_irq(4);
    v1::PortRange& range = *platform.add_port_ranges();
    range.set_base(0x3f8);
    range.set_size(8);
  } else {
    v1::PciFunction& pci = *info.mutable_pci();
    pci.set_vendor_id(0x1af4);
    pci.set_device_id(0x1042);
    pci.set_class_code(0x010000);
    v1::Bar& bar = *pci.add_bars();
    bar.set_size_bytes(input.Near(4096));
    pci.set_msix_vectors(static_cast<uint32_t>(input.Near(2)));
    v1::Capability& capability = *pci.add_capabilities();
    capability.set_id(9);
    capability.set_body(std::string(14, 'c'));
  }
  v1::Doorbell& doorbell = *info.add_doorbells();
  doorbell.set_offset(input.Near(0x800));
  info.add_required_resources("disk");
  info.set_saved_state_bytes(static_cast<uint32_t>(input.Near(1000)));
  info.set_state_version(1);
  return info;
}

v1::DeviceMetrics SomeMetrics(FuzzInput& input) {
  v1::DeviceMetrics metrics;
  for (int i = input.Byte() % 4; i >= 0; --i) {
    v1::DeviceMetric& metric = *metrics.add_metrics();
    metric.set_name(i % 2 == 0 ? "reads_total" : "depth");
    metric.set_help("Reads of the guest.");
    metric.set_value(static_cast<double>(input.Take(8)));
    metric.set_is_gauge(i % 2 == 1);
  }
  if (input.Byte() % 2 == 0) {
    v1::RequestLatency& latency = *metrics.mutable_request_latency();
    latency.mutable_buckets()->Resize(static_cast<int>(input.Near(33) % 64), input.Take(8));
    latency.set_sum_nanoseconds(input.Take(8));
  }
  return metrics;
}

std::string ValidAnswer(Rpc rpc, FuzzInput& input) {
  if (rpc == Rpc::kDescribe) return SomeDevice(input).SerializeAsString();
  if (rpc == Rpc::kGetMetrics) return SomeMetrics(input).SerializeAsString();
  v1::DeviceMetric metric;  // the other replies have no field: all of it is unknown to them
  metric.set_value(static_cast<double>(input.Near(1000)));
  return metric.SerializeAsString();
}

// A few mutations.
void Mutate(std::string& bytes, FuzzInput& input) {
  for (int i = input.Byte() % 6; i > 0; --i) {
    const size_t at = bytes.empty() ? 0 : input.Take(2) % bytes.size();
    switch (input.Byte() % 6) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(input.Byte());
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << input.Byte() % 8));
        break;
      case 2:
        bytes.insert(at, 1 + input.Byte() % 10, static_cast<char>(input.Byte()));
        break;
      case 3:
        bytes.erase(at, 1 + input.Byte() % 10);
        break;
      case 4:
        bytes.insert(at, bytes.substr(input.Byte() % (bytes.size() + 1), input.Byte()));
        break;
      case 5:
        bytes.resize(at);
        break;
    }
  }
}

// A block of header fields: those of an answer, of any others, of any bytes.
std::string HeaderBlock(FuzzInput& input) {
  std::string block;
  for (int i = input.Byte() % 8; i >= 0; --i) {
    switch (input.Byte() % 8) {
      case 0:
        block += Field(":status", "200");
        break;
      case 1:
        block += Field("content-type", "application/grpc");
        break;
      case 2:
        block += Field("grpc-status", absl::StrCat(input.Byte() % 20));
        break;
      case 3:
        block += IndexedField(absl::StrCat("x-", input.Byte() % 8),
                              std::string(input.Byte() % 126, 'v'));
        break;
      case 4:
        block += IndexOf(input.Byte() % 127);
        break;
      case 5:
        block += static_cast<char>(0x20 | input.Byte() % 32);  // the table's new size
        break;
      case 6:
        block += Field("grpc-message", std::string(input.Byte() % 126, '%'));
        break;
      case 7:
        block += static_cast<char>(input.Byte());
        break;
    }
  }
  if (input.Byte() % 4 == 0) Mutate(block, input);
  return block;
}

std::string SomePayload(uint8_t type, FuzzInput& input) {
  switch (type) {
    case kHeaders:
    case kContinuation:
    case kPushPromise:
      return HeaderBlock(input);
    case kData: {
      std::string message = Message(ValidAnswer(Rpc::kHeartbeat, input), input.Byte() % 16 == 0);
      if (input.Byte() % 2 == 0) Mutate(message, input);
      return message;
    }
    case kSettings: {
      std::string settings;
      for (int i = input.Byte() % 4; i > 0; --i) {
        settings +=
            BigEndian(input.Byte() % 10, 2) + BigEndian(static_cast<uint32_t>(input.Take(4)), 4);
      }
      return settings;
    }
    case kPing:
      return std::string(8, 'p');
    case kGoAway:
      return BigEndian(input.Byte() % 8, 4) + BigEndian(input.Byte() % 16, 4) + "why";
    case kRstStream:
    case kWindowUpdate:
      return BigEndian(static_cast<uint32_t>(input.Near(8)), 4);
    default:
      return std::string(input.Byte(), 'u');
  }
}

// The frames of one answer, some of them wrong.
std::vector<std::pair<bool, std::string>> Conversation(FuzzInput& input) {
  std::vector<std::pair<bool, std::string>> frames;
  const int count = 1 + input.Byte() % 12;
  for (int i = 0; i < count; ++i) {
    const uint8_t how = input.Byte();
    if (how < 24) {
      for (const std::string& frame :
           {AnswerHeaders(0), Frame(kData, 0, 0, Message(ValidAnswer(Rpc::kHeartbeat, input))),
            Trailers(0, "0")}) {
        frames.emplace_back(true, frame);
      }
      continue;
    }
    const uint8_t type = how % 12;
    const uint8_t flags = input.Byte() % 2 == 0 ? kEndHeaders : input.Byte();
    std::string frame =
        Frame(type, flags, static_cast<uint32_t>(input.Near(1)), SomePayload(type, input));
    const bool of_connection = type == kSettings || type == kPing || type == kGoAway;
    const bool has_stream = !of_connection && input.Byte() % 8 != 0;
    if (of_connection && input.Byte() % 8 != 0) frame.replace(5, 4, 4, '\0');
    if (input.Byte() % 8 == 0) frame[2] = static_cast<char>(input.Byte());  // the length
    if (input.Byte() % 16 == 0) Mutate(frame, input);
    frames.emplace_back(has_stream && frame.size() >= 9, std::move(frame));
  }
  return frames;
}

class Harness {
 public:
  Harness() {
    ControlClient::IsolateConnections();
    setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
    google::protobuf::SetLogHandler(nullptr);
  }

  void Run(FuzzInput& input) {
    if (input.Byte() % 8 == 0) {
      RunConversation(input);
    } else {
      RunAnswer(input);
    }
    if (++inputs_ == 512) figures_.Begin();
    if (inputs_ > 512 && inputs_ % 256 == 0) figures_.Check();
  }

 private:
  void RunAnswer(FuzzInput& input) {
    const auto rpc = static_cast<Rpc>(input.Byte() % static_cast<int>(Rpc::kCount));
    std::string message = ValidAnswer(rpc, input);
    Mutate(message, input);
    std::vector<std::pair<bool, std::string>> frames = {
        {true, AnswerHeaders(0)},
        {true, Frame(kData, 0, 0, Message(message))},
        {true, Trailers(0, "0")}};
    if (client_ == nullptr) client_ = *ControlClient::Create(liar_.Connect());
    liar_.SetAnswer(std::move(frames), /*patience_ms=*/-1);
    const absl::Status status = Call(*client_, rpc, kLongestCall);
    Require(status.ok() || absl::IsDataLoss(status), status.ToString());
    ++figures_.answers[static_cast<size_t>(rpc)];
  }

  void RunConversation(FuzzInput& input) {
    client_.reset();
    const auto client = *ControlClient::Create(liar_.Connect());
    for (int calls = 1 + input.Byte() % 3; calls > 0; --calls) {
      liar_.SetAnswer(Conversation(input), /*patience_ms=*/calls == 1 ? 0 : 10);
      (void)Call(*client, static_cast<Rpc>(input.Byte() % static_cast<int>(Rpc::kCount)),
                 kConversationTimeout);
      figures_.cut += client->why_cut().empty() ? 0 : 1;
      if (input.empty()) break;
    }
    ++figures_.conversations;
  }

  // Makes a call and uses its answer as the supervisor does.
  absl::Status Call(ControlClient& client, Rpc rpc, absl::Duration timeout) {
    ControlCall call(timeout);
    const absl::Time begin = SteadyNow();
    const absl::Status status = [&]() -> absl::Status {
      switch (rpc) {
        case Rpc::kDescribe: {
          const absl::StatusOr<v1::DeviceInfo> info = client.Describe(call);
          if (info.ok()) Use(*info);
          return info.status();
        }
        case Rpc::kGetMetrics: {
          const absl::StatusOr<v1::DeviceMetrics> metrics = client.GetMetrics(call);
          if (metrics.ok()) Use(*metrics);
          return metrics.status();
        }
        case Rpc::kHeartbeat:
          return client.Heartbeat(call).status();
        case Rpc::kReset:
          return client.Reset(call);
        case Rpc::kQuiesce:
          return client.Quiesce(call);
        case Rpc::kResume:
          return client.Resume(call);
        default:
          return client.Shutdown(call);
      }
    }();
    figures_.Called(status, SteadyNow() - begin);
    return status;
  }

  void Use(const v1::DeviceInfo& info) {
    const absl::StatusOr<DeviceDescription> description = ValidateDeviceInfo(info);
    if (description.ok()) report_.SetDescription(*description);
  }
  void Use(const v1::DeviceMetrics& metrics) {
    report_.SetMetrics(metrics);
    DeviceFigures device;
    device.description = report_.device();
    device.model = report_.metrics();
    (void)MakeMetrics(v1::VmStatus(), 0, {}, {&device, 1});
  }

  Figures figures_;
  uint64_t inputs_ = 0;
  Liar& liar_ = *new Liar;  // its thread never ends
  std::unique_ptr<ControlClient> client_;
  EventLog events_;
  DeviceReport report_{DeviceSpec(), events_};
};

}  // namespace
}  // namespace bulkhead::vmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static bulkhead::vmm::Harness harness;
  bulkhead::FuzzInput input(data, size);
  harness.Run(input);
  return 0;
}
