#ifndef BULKHEAD_VMM_CONTROL_REFLECTION_H_
#define BULKHEAD_VMM_CONTROL_REFLECTION_H_

#include "third_party/grpc_protos/reflection/v1alpha/reflection.grpc.pb.h"
#include "third_party/grpc_protos/reflection/v1alpha/reflection.pb.h"
#include "vmm/control/open_calls.h"

namespace bulkhead::vmm {

// Answers one reflection request about the services of the control plane and their messages, from
// the descriptors that are linked into this program. The request is not trusted.
grpc::reflection::v1alpha::ServerReflectionResponse Reflect(
    const grpc::reflection::v1alpha::ServerReflectionRequest& request);

// Server reflection (grpc.reflection.v1alpha), by which grpcurl and similar tools call VmControl
// without its .proto. gRPC's own service is not used: each of its streams occupies a thread, and
// another thread waits for them (gRPC 1.51).
class ReflectionService final
    : public grpc::reflection::v1alpha::ServerReflection::CallbackService {
 public:
  // `streams` must outlive the service's calls.
  explicit ReflectionService(OpenCalls& streams) : streams_(streams) {}

 private:
  grpc::ServerBidiReactor<grpc::reflection::v1alpha::ServerReflectionRequest,
                          grpc::reflection::v1alpha::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

  OpenCalls& streams_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_REFLECTION_H_
