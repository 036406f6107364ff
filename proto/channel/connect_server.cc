#include "proto/channel/connect_server.h"

#include <fcntl.h>

#include <utility>

#include "base/unique_fd.h"

namespace bulkhead::channel {
namespace {

UniqueFd Duplicate(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

}  // namespace

ServerDescriptors DuplicateDescriptors(const ChannelClient& client) {
  ServerDescriptors descriptors = {.request_memory = Duplicate(client.request_memory_fd()),
                                   .response_memory = Duplicate(client.response_memory_fd()),
                                   .request_event = Duplicate(client.request_event_fd())};
  for (uint32_t i = 0; i < client.options().waiters; ++i) {
    descriptors.completion_events.push_back(Duplicate(client.completion_event_fd(i)));
  }
  return descriptors;
}

ServerParameters ParametersFor(const ChannelClient& client, uint64_t generation,
                               absl::Duration max_poll) {
  return {.slots = client.options().slots,
          .waiters = client.options().waiters,
          .max_poll = max_poll,
          .generation = generation};
}

absl::StatusOr<std::unique_ptr<ChannelServer>> ConnectServer(const ChannelClient& client,
                                                             uint64_t generation,
                                                             absl::Duration max_poll) {
  return ChannelServer::Create(DuplicateDescriptors(client),
                               ParametersFor(client, generation, max_poll));
}

}  // namespace bulkhead::channel
