#include "vmm/config/text_config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"

namespace bulkhead::vmm {
namespace {

using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::TextFormat;

constexpr size_t kMaxConfigBytes = 1 << 20;
// The time for the writer of a pipe.
constexpr absl::Duration kWriterTimeout = absl::Seconds(5);

// Keeps the first error: the ones after it are mostly its consequences.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int /*column*/, const std::string& message) override {
    if (!text_.empty()) return;
    text_ = line < 0 ? message : absl::StrCat(line + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// Notes the line of every field that is set, all the way down.
void CollectPlaces(const Message& message, const TextFormat::ParseInfoTree& tree,
                   absl::string_view file_name, const std::string& prefix, FieldPlaces& places) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? message.GetReflection()->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const int index = field->is_repeated() ? i : -1;
      const std::string path =
          absl::StrCat(prefix, field->name(), index < 0 ? "" : absl::StrCat("[", index, "]"));
      const TextFormat::ParseLocation location = tree.GetLocation(field, index);
      if (location.line >= 0) places[path] = absl::StrCat(file_name, ":", location.line + 1);
      if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
      const TextFormat::ParseInfoTree* nested = tree.GetTreeForNested(field, index);
      if (nested == nullptr) continue;
      const Message& child =
          index < 0 ? message.GetReflection()->GetMessage(message, field)
                    : message.GetReflection()->GetRepeatedMessage(message, field, index);
      CollectPlaces(child, *nested, file_name, absl::StrCat(path, "."), places);
    }
  }
}

// InvalidArgument with every errno: it is the user's mistake.
absl::Status FileError(absl::string_view action, absl::string_view path) {
  return absl::InvalidArgumentError(
      absl::StrCat("--config: cannot ", action, " \"", path, "\": ", strerror(errno)));
}

}  // namespace

absl::Status ParseTextConfig(absl::string_view text, absl::string_view file_name,
                             v1::VmConfig& config, FieldPlaces& places) {
  FirstError error;
  TextFormat::ParseInfoTree tree;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.WriteLocationsTo(&tree);
  if (!parser.ParseFromString(std::string(text), &config)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ":", error.text(), " (vmm --help-config shows all fields)"));
  }
  CollectPlaces(config, tree, file_name, "", places);
  return absl::OkStatus();
}

absl::Status ReadTextConfig(const std::string& path, v1::VmConfig& config, FieldPlaces& places) {
  // O_NONBLOCK: a FIFO may have no writer.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.ok()) return FileError("open", path);
  const absl::Time deadline = SteadyNow() + kWriterTimeout;
  std::string text(kMaxConfigBytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    pollfd readable = {.fd = fd.get(), .events = POLLIN, .revents = 0};
    const absl::Duration left = std::max(deadline - SteadyNow(), absl::ZeroDuration());
    if (poll(&readable, 1, static_cast<int>(absl::ToInt64Milliseconds(left))) == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--config: \"", path,
                                                     "\": its writer has not closed it within ",
                                                     absl::FormatDuration(kWriterTimeout)));
    }
    const ssize_t n = read(fd.get(), text.data() + size, text.size() - size);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return FileError("read", path);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config: \"", path, "\" is larger than 1 MiB"));
  }
  text.resize(size);
  return ParseTextConfig(text, path, config, places);
}

}  // namespace bulkhead::vmm
