#include "tools/vmctl/json.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/type_resolver.h"
#include "google/protobuf/util/type_resolver_util.h"

namespace bulkhead::vmctl {
namespace {

constexpr char kTypeUrlPrefix[] = "type.googleapis.com";

// With the keys of maps sorted, which no other way of serialization promises.
std::string Serialized(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream output(&stream);
  output.SetSerializationDeterministic(true);
  (void)message.SerializeToCodedStream(&output);
  output.Trim();
  return bytes;
}

std::string ToJson(const google::protobuf::Message& message, bool pretty) {
  const std::unique_ptr<google::protobuf::util::TypeResolver> types(
      google::protobuf::util::NewTypeResolverForDescriptorPool(
          kTypeUrlPrefix, message.GetDescriptor()->file()->pool()));
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = pretty;
  options.always_print_primitive_fields = true;
  std::string json;
  // Fails only for a time that is out of range; then there is as much as was possible.
  (void)google::protobuf::util::BinaryToJsonString(
      types.get(), absl::StrCat(kTypeUrlPrefix, "/", message.GetDescriptor()->full_name()),
      Serialized(message), &json, options);
  if (json.empty() || json.back() != '\n') json.push_back('\n');
  return json;
}

}  // namespace

std::string PrettyJson(const google::protobuf::Message& message) { return ToJson(message, true); }

std::string LineOfJson(const google::protobuf::Message& message) { return ToJson(message, false); }

}  // namespace bulkhead::vmctl
