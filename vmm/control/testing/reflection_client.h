#ifndef BULKHEAD_VMM_CONTROL_TESTING_REFLECTION_CLIENT_H_
#define BULKHEAD_VMM_CONTROL_TESTING_REFLECTION_CLIENT_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/dynamic_message.h"
#include "grpcpp/channel.h"

namespace bulkhead::vmm {

// A client that has no .proto of the services that it calls, like grpcurl: it uses server
// reflection. Every call ends within 20 s. Single-threaded.
class ReflectionClient {
 public:
  explicit ReflectionClient(std::shared_ptr<grpc::Channel> channel);

  absl::StatusOr<std::vector<std::string>> ListServices();

  // Calls a unary method, "package.Service.Method", with a request in protobuf's JSON, and returns
  // the answer's. Errors: NotFound (no such method), InvalidArgument (the request), or the call's.
  absl::StatusOr<std::string> Call(const std::string& method, const std::string& request_json);

 private:
  // Fetches the file of a symbol and its imports.
  absl::Status Fetch(const std::string& symbol);

  const std::shared_ptr<grpc::Channel> channel_;
  google::protobuf::DescriptorPool pool_;
  google::protobuf::DynamicMessageFactory messages_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_TESTING_REFLECTION_CLIENT_H_
