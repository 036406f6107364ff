#include "integration/testbed/wire.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace bulkhead::testbed {
namespace {

struct FrameHeader {
  uint32_t length;
  uint32_t type;
};

template <typename T>
void AppendRaw(T value, std::string& output) {
  output.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendString(absl::string_view text, std::string& output) {
  AppendRaw<uint32_t>(text.size(), output);
  output.append(text.data(), text.size());
}

void AppendList(const std::vector<std::string>& list, std::string& output) {
  AppendRaw<uint32_t>(list.size(), output);
  for (const std::string& text : list) AppendString(text, output);
}

// Takes values off the front of a payload; after the first failure every value is empty.
class Cursor {
 public:
  explicit Cursor(absl::string_view rest) : rest_(rest) {}

  template <typename T>
  T Take() {
    T value{};
    if (absl::string_view bytes = TakeBytes(sizeof(T)); bytes.size() == sizeof(T)) {
      std::memcpy(&value, bytes.data(), sizeof(T));
    }
    return value;
  }

  std::string TakeString() { return std::string(TakeBytes(Take<uint32_t>())); }

  std::vector<std::string> TakeList() {
    std::vector<std::string> list;
    for (uint32_t left = Take<uint32_t>(); left > 0 && ok_; --left) list.push_back(TakeString());
    return list;
  }

  bool AtEnd() const { return ok_ && rest_.empty(); }

 private:
  absl::string_view TakeBytes(size_t count) {
    if (!ok_ || count > rest_.size()) {
      ok_ = false;
      return {};
    }
    absl::string_view bytes = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return bytes;
  }

  absl::string_view rest_;
  bool ok_ = true;
};

}  // namespace

std::string ShareTag(size_t index) { return absl::StrCat("share", index); }

std::string EncodeStart(const StartRequest& request) {
  std::string output;
  AppendRaw<uint8_t>(request.terminal, output);
  AppendRaw(request.window, output);
  AppendRaw(request.unix_time_ns, output);
  AppendString(request.entropy, output);
  AppendString(request.directory, output);
  AppendList(request.command, output);
  AppendList(request.environment, output);
  AppendList(request.writable_folders, output);
  return output;
}

absl::StatusOr<StartRequest> DecodeStart(absl::string_view payload) {
  Cursor cursor(payload);
  StartRequest request;
  request.terminal = cursor.Take<uint8_t>() != 0;
  request.window = cursor.Take<WindowSize>();
  request.unix_time_ns = cursor.Take<int64_t>();
  request.entropy = cursor.TakeString();
  request.directory = cursor.TakeString();
  request.command = cursor.TakeList();
  request.environment = cursor.TakeList();
  request.writable_folders = cursor.TakeList();
  if (!cursor.AtEnd() || request.command.empty()) {
    return absl::InvalidArgumentError("malformed start request");
  }
  return request;
}

void AppendFrame(FrameType type, absl::string_view payload, std::string& output) {
  AppendRaw(FrameHeader{static_cast<uint32_t>(payload.size()), static_cast<uint32_t>(type)},
            output);
  output.append(payload.data(), payload.size());
}

void AppendFrame(FrameType type, uint32_t value, std::string& output) {
  AppendFrame(type, absl::string_view(reinterpret_cast<const char*>(&value), sizeof(value)),
              output);
}

absl::StatusOr<uint32_t> DecodeNumber(absl::string_view payload) {
  if (payload.size() != sizeof(uint32_t)) return absl::InvalidArgumentError("malformed number");
  return Cursor(payload).Take<uint32_t>();
}

absl::StatusOr<Frame> FrameReader::Next() {
  FrameHeader header;
  if (buffer_.size() < sizeof(header)) return absl::UnavailableError("no whole frame yet");
  std::memcpy(&header, buffer_.data(), sizeof(header));
  if (header.length > kMaxPayload) return absl::InvalidArgumentError("frame too long");
  if (buffer_.size() - sizeof(header) < header.length) {
    return absl::UnavailableError("no whole frame yet");
  }
  Frame frame{static_cast<FrameType>(header.type), buffer_.substr(sizeof(header), header.length)};
  buffer_.erase(0, sizeof(header) + header.length);
  return frame;
}

}  // namespace bulkhead::testbed
