#ifndef BULKHEAD_PROTO_CHANNEL_CONNECT_SERVER_H_
#define BULKHEAD_PROTO_CHANNEL_CONNECT_SERVER_H_

#include <stdint.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_server.h"

namespace bulkhead::channel {

// For tests: duplicates of the descriptors that an AttachRequest carries.
ServerDescriptors DuplicateDescriptors(const ChannelClient& client);

ServerParameters ParametersFor(const ChannelClient& client, uint64_t generation,
                               absl::Duration max_poll);

// For tests: a server in this process, attached to `client` by a mapping of its own. It may outlive
// `client`. Servers that are created one after the other behave as a device process and its
// successors.
absl::StatusOr<std::unique_ptr<ChannelServer>> ConnectServer(
    const ChannelClient& client, uint64_t generation = 1,
    absl::Duration max_poll = absl::ZeroDuration());

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CONNECT_SERVER_H_
