// Fuzzes the keeper of a back end's connection with what both of its peers send: an input is the
// bytes, descriptors and ends of connections of devices, one after the other, and of a back end.
// It passes whole messages only; what a device has started is stopped before the next one is heard;
// it ends with the back end's connection, and leaves no descriptor open.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <bitset>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/message_socket.h"
#include "base/testing/fuzz_input.h"
#include "base/unique_fd.h"
#include "vmm/back_end/connection_keeper.h"
#include "vmm/back_end/unnamed_listener.h"

namespace bulkhead::vmm {
namespace {

constexpr uint32_t kTypes[] = {1, 2, 5, 11, 11, 12, 12, 15, 16, 24};
constexpr uint32_t kGetFeatures = 1;
constexpr uint32_t kGetVringBase = 11;
constexpr uint32_t kSetVringKick = 12;
constexpr size_t kHeaderBytes = 12;
constexpr uint32_t kMaxPayload = 4096;
constexpr uint64_t kMark = 0x6d61726b6d61726b;  // of a message that says which device has sent it
constexpr int kMaxWaiting = 6;                  // connections; fewer than the kernel keeps
constexpr int kPatienceMs = 20'000;             // of the honest

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string Message(uint32_t type, const std::string& payload) {
  const uint32_t header[] = {type, 1, static_cast<uint32_t>(payload.size())};
  return Bytes(header) + payload;
}

int OpenDescriptors() {
  int count = 0;
  DIR* const folder = opendir("/proc/self/fd");
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

// What the back end gets.
class Received {
 public:
  void Add(const std::string& bytes) {
    bytes_ += bytes;
    while (bytes_.size() >= kHeaderBytes) {
      uint32_t header[3];
      memcpy(header, bytes_.data(), sizeof(header));
      Require(header[2] <= kMaxPayload, "a message is too large");
      if (bytes_.size() < kHeaderBytes + header[2]) return;
      OnMessage(header[0], bytes_.substr(kHeaderBytes, header[2]));
      bytes_.erase(0, kHeaderBytes + header[2]);
    }
  }

  // Of a type from which a reply is expected.
  uint64_t requests(uint32_t type) const { return requests_.at(type); }
  // The last device that has marked a message.
  uint32_t device() const { return device_; }

 private:
  void OnMessage(uint32_t type, const std::string& payload) {
    if (const auto count = requests_.find(type); count != requests_.end()) ++count->second;
    uint32_t words[4] = {};
    memcpy(words, payload.data(), std::min(payload.size(), sizeof(words)));
    uint64_t mark = 0;
    memcpy(&mark, &words[2], sizeof(mark));
    if (mark == kMark && words[1] != device_) {
      Require(started_.none(), "queues of the last device still run");
      device_ = words[1];
    }
    if (type == kSetVringKick) started_.set(words[0] & 0xff);
    if (type == kGetVringBase && words[0] < started_.size()) started_.reset(words[0]);
  }

  std::string bytes_;
  uint32_t device_ = 0;
  std::bitset<256> started_;
  std::map<uint32_t, uint64_t> requests_ = {{kGetFeatures, 0}, {kGetVringBase, 0}};
};

class World {
 public:
  explicit World(FuzzInput& input) : input_(input) {
    absl::StatusOr<UnnamedListener> listener = MakeUnnamedListener();
    auto ends = CreateSocketPair(SOCK_STREAM);
    Require(listener.ok() && ends.ok(), "the host lacks sockets");
    listener_ = *std::move(listener);
    back_end_ = std::move(ends->first);
    keepers_end_ = std::move(ends->second);
    keeper_ = std::thread([this] { KeepConnection(listener_.socket.get(), keepers_end_.get()); });
    // A connection from before the keeper listens is closed.
    do {
      devices_.clear();
      Connect();
      SendToKeeper(device(), Message(kGetFeatures, ""), 0);
    } while (!AwaitEither());
  }
  ~World() {
    back_end_.reset();
    keeper_.join();
  }

  void Step() {
    switch (input_.Byte() % 10) {
      case 0:
        return Connect();
      case 1:
      case 2:
        return SendToKeeper(device(), MarkedMessage(), input_.Byte() % 4 == 0 ? 1 : 0);
      case 3:
        return SendToKeeper(device(), AnyBytes(), input_.Byte() % 12);
      case 4:
        if (!devices_.empty()) devices_.erase(devices_.begin());
        return;
      case 5:
        has_lied_ = true;
        return SendToKeeper(back_end_.get(), AnyBytes(), 0);
      case 6:
      case 7:
        return SendToKeeper(back_end_.get(), Reply(), 0);
      case 8:
        return Drain(device(), nullptr);
      default:
        pollfd ready = {.fd = back_end_.get(), .events = POLLIN, .revents = 0};
        poll(&ready, 1, /*timeout=*/1);
        return Drain(back_end_.get(), &received_);
    }
  }

  // If the back end's replies were whole, and now answer all: the keeper hears the next device.
  void ExpectNextDeviceIsHeard() {
    if (has_lied_) return;
    devices_.clear();
    pollfd waiting = {.fd = listener_.socket.get(), .events = POLLIN, .revents = 0};
    bool is_sent = false;
    for (int passed_ms = 0; passed_ms < kPatienceMs; ++passed_ms) {
      for (const uint32_t type : {kGetFeatures, kGetVringBase}) {
        while (answered_[type] < received_.requests(type)) {
          ++answered_[type];
          SendToKeeper(back_end_.get(), Message(type, Bytes(uint64_t{0})), 0);
        }
      }
      if (!is_sent && poll(&waiting, 1, 0) == 0) {
        Connect();
        SendToKeeper(device(), MarkedBytes(kGetFeatures, 0), 0);
        is_sent = true;
      }
      if (is_sent && received_.device() == connects_) return;
      pollfd ready = {.fd = back_end_.get(), .events = POLLIN, .revents = 0};
      poll(&ready, 1, /*timeout=*/1);
      Drain(back_end_.get(), &received_);
    }
    Require(false, "the next device is not heard");
  }

 private:
  // True: the keeper has passed something on. False: it has closed the device's connection.
  bool AwaitEither() {
    pollfd ready[] = {{.fd = device(), .events = POLLIN, .revents = 0},
                      {.fd = back_end_.get(), .events = POLLIN, .revents = 0}};
    int count;
    do {
      count = poll(ready, 2, kPatienceMs);
    } while (count < 0 && errno == EINTR);  // libFuzzer has a timer
    Require(count > 0, "the keeper does not begin");
    return ready[1].revents != 0;
  }

  int device() const { return devices_.empty() ? -1 : devices_.front().get(); }

  void Connect() {
    pollfd waiting = {.fd = listener_.socket.get(), .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 0) == 0) waiting_ = 0;
    if (waiting_ == kMaxWaiting) return;
    ++waiting_;
    absl::StatusOr<UniqueFd> connection = ConnectTo(listener_);
    Require(connection.ok(), "the keeper's socket takes no connection");
    ++connects_;
    devices_.push_back(*std::move(connection));
  }

  std::string AnyBytes() {
    std::string bytes;
    for (size_t size = input_.Byte() % 64; bytes.size() < size;) {
      bytes.push_back(static_cast<char>(input_.Byte()));
    }
    return bytes.find(Bytes(kMark)) == std::string::npos ? bytes : "";
  }
  std::string MarkedBytes(uint32_t type, uint32_t queue) const {
    // The device that is heard is the oldest.
    const uint32_t words[] = {queue, connects_ - static_cast<uint32_t>(devices_.size()) + 1};
    return Message(type, Bytes(words) + Bytes(kMark));
  }
  std::string MarkedMessage() {
    const uint32_t type = kTypes[input_.Byte() % std::size(kTypes)];
    std::string message = MarkedBytes(type, input_.Byte() % 4);
    // Sometimes not all of it.
    if (input_.Byte() % 8 == 0) message.resize(input_.Byte() % message.size());
    return message;
  }
  std::string Reply() {
    const uint32_t type = kTypes[input_.Byte() % std::size(kTypes)];
    return Message(type, Bytes(input_.Near(8)));
  }

  static void SendToKeeper(int socket, const std::string& bytes, int descriptors) {
    if (socket < 0 || bytes.empty()) return;
    std::vector<UniqueFd> files;
    std::vector<int> borrowed;
    for (int i = 0; i < descriptors; ++i) {
      files.emplace_back(open("/dev/null", O_RDWR | O_CLOEXEC));
      borrowed.push_back(files.back().get());
    }
    pollfd ready = {.fd = socket, .events = POLLOUT, .revents = 0};
    if (poll(&ready, 1, 0) <= 0 || (ready.revents & POLLOUT) == 0) return;
    SendSocketMessage(socket, bytes, borrowed).IgnoreError();
  }

  static void Drain(int socket, Received* received) {
    if (socket < 0) return;
    char bytes[8192];
    ssize_t size;
    while ((size = recv(socket, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
      if (received != nullptr) received->Add(std::string(bytes, static_cast<size_t>(size)));
    }
  }

  FuzzInput& input_;
  UnnamedListener listener_;
  UniqueFd back_end_;
  UniqueFd keepers_end_;
  std::thread keeper_;
  std::vector<UniqueFd> devices_;
  uint32_t connects_ = 0;
  int waiting_ = 0;        // connections that are not accepted, at most
  bool has_lied_ = false;  // the back end
  Received received_;
  std::map<uint32_t, uint64_t> answered_;
};

}  // namespace
}  // namespace bulkhead::vmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead;       // NOLINT: the entry point cannot be in it
  using namespace bulkhead::vmm;  // NOLINT
  const int before = OpenDescriptors();
  FuzzInput input(data, size);
  {
    World world(input);
    for (int step = 0; step < 200 && !input.empty(); ++step) world.Step();
    world.ExpectNextDeviceIsHeard();
  }
  Require(OpenDescriptors() == before, "descriptors are left open");
  return 0;
}
