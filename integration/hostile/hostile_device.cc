// A device process that has been taken over: it speaks the contract by hand and lies in one way,
// which --lie=NAME or the suffix of the program's name after the last dot chooses. Without one it
// serves honestly. The device is a PCI function with one register in a BAR of 4 KiB.
//
// Lies about the description and in the attach handshake come at once, all others a moment after
// the attach. hostile_device_test has the list, with what the vmm must say to each.
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/memory_mapping.h"
#include "base/message_socket.h"
#include "base/testing/http2.h"
#include "base/unique_fd.h"
#include "proto/attach.pb.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/channel_memory.h"
#include "proto/channel/channel_server.h"
#include "proto/console_stream.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"

namespace bulkhead {
namespace {

using namespace http2;  // NOLINT(google-build-using-namespace)
using channel::ChannelServer;

constexpr uint32_t kVectors = 4;
constexpr uint32_t kStateBytes = 256;
constexpr useconds_t kBeforeLie = 100'000;

std::string lie;
bool Lies(absl::string_view name) { return lie == name; }

std::atomic<uint64_t> generation{0};  // not 0: attached
std::atomic<bool> lie_is_due{false};

[[noreturn]] void Hang() {
  while (true) pause();
}

// ---- The control connection ---------------------------------------------------------------------

std::string DescriptionBytes() {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("hostile");
  v1::PciFunction& pci = *info.mutable_pci();
  pci.set_vendor_id(0x1234);
  pci.set_device_id(0x0666);
  pci.set_class_code(0xff0000);
  pci.set_msix_vectors(kVectors);
  pci.set_has_intx(true);
  v1::Bar& bar = *pci.add_bars();
  bar.set_size_bytes(4096);
  info.set_saved_state_bytes(kStateBytes);
  info.set_state_version(1);

  if (Lies("describe_bar_of_3000_bytes")) bar.set_size_bytes(3000);
  if (Lies("describe_bar_of_8_eib")) bar.set_size_bytes(uint64_t{1} << 63);
  if (Lies("describe_bar_7")) bar.set_index(7);
  if (Lies("describe_vectors")) pci.set_msix_vectors(~uint32_t{0});
  if (Lies("describe_capability")) pci.add_capabilities()->set_body(std::string(200'000, 'c'));
  if (Lies("describe_state")) info.set_saved_state_bytes(~uint32_t{0});
  if (Lies("describe_memory")) info.set_durable_memory_bytes(~uint64_t{0});
  if (Lies("describe_doorbells")) {
    for (int i = 0; i < 10'000; ++i) info.add_doorbells()->set_offset(static_cast<uint64_t>(i));
  }
  if (Lies("describe_contract")) info.set_contract_version(kContractVersion + 1);
  if (Lies("describe_other_device")) pci.set_device_id(0x0667);
  if (Lies("describe_escapes")) info.set_model("\x1b[2J\r\nvmm: error: forged");
  if (Lies("describe_garbage")) return std::string(1000, '\xff');
  if (Lies("describe_3_mib")) info.set_model(std::string(3 << 20, 'm'));
  return info.SerializeAsString();
}

v1::DeviceMetrics Metrics() {
  v1::DeviceMetrics metrics;
  const auto add = [&](const std::string& name, double value, bool is_gauge = false) {
    v1::DeviceMetric& metric = *metrics.add_metrics();
    metric.set_name(name);
    metric.set_help("help\n# TYPE forged counter\n\x1b[2J");
    metric.set_value(value);
    metric.set_is_gauge(is_gauge);
  };
  if (Lies("metrics_many")) {
    for (int i = 0; i < 900; ++i) {
      std::string name = "m";  // letters only
      for (int rest = i; rest > 0; rest /= 26) name += static_cast<char>('a' + rest % 26);
      add(name, i);
    }
  }
  if (Lies("metrics_forged")) {
    add("x{device=\"disk0\"} 1\nforged", 1);
    add("nan", std::numeric_limits<double>::quiet_NaN());
    add("infinite_total", std::numeric_limits<double>::infinity());
    // Those of the disk, of another kind.
    add("reads_total", 1, /*is_gauge=*/true);
    add("writes_total", 1, /*is_gauge=*/true);
    add("flushes_total", 1, /*is_gauge=*/true);
    metrics.mutable_request_latency()->mutable_buckets()->Resize(33, ~uint64_t{0});
    metrics.mutable_request_latency()->set_sum_nanoseconds(~uint64_t{0});
  }
  return metrics;
}

// The answer to every call but Describe and GetMetrics: fields that these replies do not have.
constexpr char kReplyBytes[] = "\x08\x01\x10\x02";

// Lies instead of answering a call. False: it answers as usual.
bool LieToCall(ServerEnd& vmm, uint32_t stream) {
  const auto flood = [&](const std::string& first, const std::string& frame) {
    vmm.Send(first);
    const std::string frames = Many(frame);
    while (vmm.Send(frames)) {
    }
    Hang();
  };
  const std::string headers = Frame(kHeaders, 0, stream, Field(":status", "200"));
  if (Lies("grpc_pings")) flood("", Frame(kPing, 0, 0, "12345678"));
  if (Lies("grpc_settings")) flood("", Frame(kSettings, 0, 0, ""));
  if (Lies("grpc_continuations")) flood(headers, Frame(kContinuation, 0, stream, Field("x", "")));
  if (Lies("grpc_message_of_2_gib")) {
    flood(AnswerHeaders(stream) + Frame(kData, 0, stream, std::string("\0\x7f\xff\xff\xff", 5)),
          Frame(kData, 0, stream, std::string(1000, 'x')));
  }
  if (Lies("grpc_garbage")) return vmm.Send(std::string(1000, '\xa5'));
  if (Lies("grpc_goaway")) return vmm.Send(Frame(kGoAway, 0, 0, BigEndian(0, 4) + BigEndian(0, 4)));
  if (Lies("grpc_reset")) return vmm.Send(Frame(kRstStream, 0, stream, BigEndian(8, 4)));
  if (Lies("grpc_never_reads")) Hang();
  if (Lies("grpc_ends")) return close(kControlSocketFd) == 0;
  return false;
}

void ServeControl() {
  ServerEnd vmm(kControlSocketFd);
  vmm.Send(Frame(kSettings, 0, 0, ""));
  uint32_t stream = vmm.AwaitCall();
  if (Lies("describe_never")) Hang();
  if (stream != 0) vmm.Send(Answer(stream, Message(DescriptionBytes())));
  while ((stream = vmm.AwaitCall()) != 0) {
    if (lie_is_due && LieToCall(vmm, stream)) continue;
    std::string reply = kReplyBytes;
    if (absl::StrContains(vmm.headers(), "GetMetrics")) reply = Metrics().SerializeAsString();
    // A second time: the first answer came too late. (gRPC abbreviates the method's name then.)
    if (generation == 0) reply = DescriptionBytes();
    vmm.Send(Answer(stream, Message(reply)));
  }
}

// ---- The attach handshake -----------------------------------------------------------------------

struct Attachment {
  v1::AttachRequest request;
  channel::ServerDescriptors channel;
  UniqueFd durable_state;
  std::vector<UniqueFd> interrupts;
  UniqueFd console;
  std::vector<UniqueFd> others;
};

absl::StatusOr<Attachment> ReceiveOffer() {
  absl::StatusOr<SocketMessage> message =
      ReceiveSocketMessage(kAttachSocketFd, 64 * 1024, absl::InfiniteDuration());
  if (!message.ok()) return message.status();
  Attachment attachment;
  if (!attachment.request.ParseFromString(message->bytes) ||
      attachment.request.descriptors_size() != static_cast<int>(message->descriptors.size())) {
    return absl::InvalidArgumentError("no attach request in one packet");
  }
  for (size_t i = 0; i < message->descriptors.size(); ++i) {
    UniqueFd& fd = message->descriptors[i];
    switch (attachment.request.descriptors(static_cast<int>(i)).kind()) {
      case v1::Descriptor::CHANNEL_REQUEST_MEMORY:
        attachment.channel.request_memory = std::move(fd);
        break;
      case v1::Descriptor::CHANNEL_RESPONSE_MEMORY:
        attachment.channel.response_memory = std::move(fd);
        break;
      case v1::Descriptor::CHANNEL_REQUEST_EVENT:
        attachment.channel.request_event = std::move(fd);
        break;
      case v1::Descriptor::CHANNEL_COMPLETION_EVENT:
        attachment.channel.completion_events.push_back(std::move(fd));
        break;
      case v1::Descriptor::DURABLE_STATE:
        attachment.durable_state = std::move(fd);
        break;
      case v1::Descriptor::MSIX_VECTOR:
      case v1::Descriptor::INTX:
        attachment.interrupts.push_back(std::move(fd));
        break;
      case v1::Descriptor::RESOURCE:
        attachment.console = std::move(fd);
        break;
      default:
        attachment.others.push_back(std::move(fd));
    }
  }
  return attachment;
}

void Reply(const Attachment& attachment) {
  const auto send = [](const std::string& bytes) {
    return SendSocketMessage(kAttachSocketFd, bytes, {}).ok();
  };
  v1::AttachReply reply;
  reply.set_generation(attachment.request.generation());
  if (Lies("attach_of_another")) reply.set_generation(reply.generation() + 1);
  if (Lies("attach_refused")) reply.set_error("\x1b[2Jno\nvmm: error: forged");
  if (Lies("attach_closed")) {
    close(kAttachSocketFd);
    Hang();
  }
  if (Lies("attach_garbage")) send(std::string(100, '\xff'));
  if (Lies("attach_of_1_mib")) send(std::string(1 << 17, 'x'));
  generation = reply.generation();
  send(reply.SerializeAsString());
  if (Lies("attach_packets")) {
    while (send("x")) {
    }
  }
}

// ---- The data plane -----------------------------------------------------------------------------

void WriteForEver(const std::vector<UniqueFd>& events, uint64_t value) {
  while (true) {
    for (const UniqueFd& event : events) {
      if (write(event.get(), &value, sizeof(value)) < 0) continue;
    }
  }
}

// Answers heartbeats, whatever the data plane does.
[[noreturn]] void Beat(std::atomic<uint64_t>& answer, const std::atomic<uint64_t>& asked) {
  std::mt19937_64 random(getpid());
  for (uint64_t last = 0;; usleep(5'000)) {
    const uint64_t number = asked;
    const bool lies = lie_is_due;
    if (lies && Lies("heartbeat_none")) continue;
    if (lies && Lies("heartbeat_late") && number != last) usleep(2'000'000);
    uint64_t value = number << 1;
    if (lies && Lies("heartbeat_garbage")) value = random();
    if (lies && Lies("heartbeat_old")) value = 1 << 1;
    if (lies && Lies("heartbeat_ahead")) value = (number + 1) << 1;
    if (number != last || lies) answer = value;
    last = number;
  }
}

// Lies about memory that the vmm reads. Returns if the process serves on.
void LieInMemory(Attachment& attachment, const channel::ResponseView& response,
                 const MemoryMapping& mapping) {
  std::mt19937_64 random(getpid());
  const uint32_t waiters = attachment.request.channel().waiters();
  const auto scribble = [&random](uint8_t* memory, size_t bytes) {
    const uint64_t near = random() % 4 == 0 ? random() : random() % 1'000'000;
    reinterpret_cast<std::atomic<uint64_t>*>(memory)[random() % (bytes / 8)] = near;
  };
  if (Lies("channel_head_beyond")) response.header().head = uint64_t{1} << 40;
  if (Lies("channel_head_back")) response.header().head = 0;
  if (Lies("channel_head_max")) response.header().head = ~uint64_t{0};
  if (absl::StartsWith(lie, "channel_head")) Hang();
  if (Lies("channel_future_tickets")) {
    for (uint32_t i = 0; i < waiters; ++i) response.completion(i).ticket = uint64_t{1} << 40;
    Hang();
  }
  if (Lies("channel_unknown_status")) {
    for (uint32_t i = 0; i < waiters; ++i) response.completion(i).status.Write(77);
    for (uint64_t ticket = 1;; ++ticket) {
      for (uint32_t i = 0; i < waiters; ++i) response.completion(i).ticket = ticket;
    }
  }
  if (Lies("channel_scribbles")) {
    std::vector<UniqueFd>& events = attachment.channel.completion_events;
    std::thread([&events] { WriteForEver(events, 1); }).detach();
    while (true) scribble(mapping.data(), mapping.size());
  }
  if (Lies("channel_silence")) Hang();
  if (Lies("state_scribbles")) {
    const size_t bytes = 4096;
    const auto state = MemoryMapping::Map(attachment.durable_state.get(), 0, bytes,
                                          MemoryMapping::Protection::kReadWrite);
    if (!state.ok()) abort();
    for (int i = 0; i < 1'000'000; ++i) scribble(state->data(), bytes);
    _exit(9);
  }
  if (Lies("memory_resized")) {
    for (const UniqueFd* fd : {&attachment.channel.response_memory, &attachment.durable_state}) {
      if (ftruncate(fd->get(), 0) == 0 || ftruncate(fd->get(), 1 << 30) == 0) _exit(1);
    }
    _exit(9);
  }
}

// A packet of proto/console_stream.h.
void SendToConsole(int socket, uint64_t position, uint64_t acknowledged, size_t bytes) {
  const ConsolePacketHeader header = {.position = position, .acknowledged = acknowledged};
  std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
  packet.append(bytes, 'c');
  (void)send(socket, packet.data(), packet.size(), MSG_NOSIGNAL);
}

void LieToConsole(int socket) {
  std::mt19937_64 random(getpid());
  SendToConsole(socket, 0, 0, 0);
  if (Lies("console_flood")) {
    for (uint64_t position = 0;; position += kMaxConsoleBytes) {
      SendToConsole(socket, position, 0, kMaxConsoleBytes);
    }
  }
  if (Lies("console_positions")) {
    while (true) SendToConsole(socket, random(), random(), random() % (2 * kMaxConsoleBytes));
  }
  if (Lies("console_acknowledgement")) SendToConsole(socket, 0, 1 << 20, 0);
  if (Lies("console_short_packet")) (void)send(socket, "short", 5, MSG_NOSIGNAL);
  if (Lies("console_long_packet")) SendToConsole(socket, 0, 0, 100'000);
}

void LieElsewhere(Attachment& attachment) {
  if (absl::StartsWith(lie, "console_")) LieToConsole(attachment.console.get());
  if (Lies("interrupts_flood")) WriteForEver(attachment.interrupts, 1);
  if (Lies("events_full")) {
    for (auto* events : {&attachment.interrupts, &attachment.channel.completion_events}) {
      for (const UniqueFd& event : *events) {
        fcntl(event.get(), F_SETFL, O_NONBLOCK);
        const uint64_t most = ~uint64_t{0} - 1;
        if (write(event.get(), &most, sizeof(most)) < 0) continue;
        fcntl(event.get(), F_SETFL, 0);
      }
    }
  }
  if (Lies("log_forged")) {
    fprintf(stderr,
            "\x1b[2J\x1b]0;owned\a\x9b"
            "31m\rvmm: error: forged\nvmm: error: forged\n\xff");
    _exit(9);
  }
  if (Lies("log_flood")) {
    while (true) fprintf(stderr, "vmm: error: forged %s\n", std::string(200, '\x80').c_str());
  }
  if (Lies("exits")) _exit(9);
}

// The honest part: answers reads with what was written last.
[[noreturn]] void Serve(ChannelServer& server) {
  uint64_t value = 42;
  while (true) {
    ChannelServer::Request request;
    while (server.TryPeek(request)) {
      if (request.operation == channel::Operation::kPostedWrite) {
        value = request.data;
        server.Retire(request);
      } else {
        server.Complete(request, value);
      }
    }
    if (!server.PrepareToSleep()) continue;
    pollfd waits[] = {{.fd = server.event_fd(), .events = POLLIN, .revents = 0},
                      {.fd = kAttachSocketFd, .events = POLLIN, .revents = 0}};
    poll(waits, 2, -1);
    server.AfterSleep();
    char byte;
    if (waits[1].revents != 0 && recv(kAttachSocketFd, &byte, 1, MSG_DONTWAIT) <= 0) _exit(0);
  }
}

void Run() {
  std::thread(ServeControl).detach();
  absl::StatusOr<Attachment> attachment = ReceiveOffer();
  if (!attachment.ok()) _exit(0);
  if (Lies("attach_never")) Hang();

  const uint32_t slots = attachment->request.channel().slots();
  const uint32_t waiters = attachment->request.channel().waiters();
  const auto mapping = MemoryMapping::Map(attachment->channel.response_memory.get(), 0,
                                          channel::ResponseView::SizeBytes(waiters),
                                          MemoryMapping::Protection::kReadWrite);
  if (!mapping.ok()) abort();
  const channel::ResponseView response(mapping->data());
  channel::ServerDescriptors descriptors = {
      .request_memory = UniqueFd(dup(attachment->channel.request_memory.get())),
      .response_memory = UniqueFd(dup(attachment->channel.response_memory.get())),
      .request_event = UniqueFd(dup(attachment->channel.request_event.get()))};
  for (const UniqueFd& event : attachment->channel.completion_events) {
    descriptors.completion_events.emplace_back(dup(event.get()));
  }
  auto server = ChannelServer::Create(
      std::move(descriptors),
      {.slots = slots, .waiters = waiters, .generation = attachment->request.generation()});
  if (!server.ok()) {
    fprintf(stderr, "%s\n", server.status().ToString().c_str());
    _exit(1);
  }
  const auto requests = MemoryMapping::Map(attachment->channel.request_memory.get(), 0,
                                           channel::RequestView::SizeBytes(slots, waiters),
                                           MemoryMapping::Protection::kRead);
  if (!requests.ok()) abort();
  const channel::RequestView request(requests->data(), slots, waiters);
  std::thread([&] { Beat(response.header().heartbeat, request.header().heartbeat); }).detach();
  Reply(*attachment);
  std::thread([&] {
    usleep(kBeforeLie);
    lie_is_due = true;
    LieElsewhere(*attachment);
    if (!absl::StartsWith(lie, "channel_")) LieInMemory(*attachment, response, *mapping);
  }).detach();
  if (absl::StartsWith(lie, "channel_")) {
    // This thread stops to serve meanwhile.
    usleep(kBeforeLie);
    LieInMemory(*attachment, response, *mapping);
  }
  Serve(**server);
}

}  // namespace
}  // namespace bulkhead

int main(int argc, char** argv) {
  absl::string_view name = argc > 1 ? argv[1] : argv[0];
  if (argc > 1) {
    absl::ConsumePrefix(&name, "--lie=");
    bulkhead::lie = std::string(name);
  } else if (const size_t dot = name.rfind('.'); dot != name.npos) {
    bulkhead::lie = std::string(name.substr(dot + 1));
  }
  bulkhead::Run();
}
