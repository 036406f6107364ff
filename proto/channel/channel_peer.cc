#include "proto/channel/channel_peer.h"

#include <utility>

#include "base/status_macros.h"
#include "proto/channel/connect_server.h"

namespace bulkhead::channel {

absl::StatusOr<ChannelPeer::Pair> ChannelPeer::Connect(const ChannelOptions& options,
                                                       absl::Duration server_poll) {
  ASSIGN_OR_RETURN(ChannelMemory memory, ChannelMemory::Create(options));
  ASSIGN_OR_RETURN(
      memory.response_mapping,
      MemoryMapping::Map(memory.response_memory.get(), 0, ResponseView::SizeBytes(options.waiters),
                         MemoryMapping::Protection::kReadWrite));
  ASSIGN_OR_RETURN(EventFd interrupt, EventFd::Create());
  Pair pair;
  pair.client.reset(new ChannelClient(options, std::move(memory), std::move(interrupt)));

  RETURN_IF_ERROR(Reconnect(pair, 1, server_poll));
  return pair;
}

absl::Status ChannelPeer::Reconnect(Pair& pair, uint64_t generation, absl::Duration server_poll) {
  ServerDescriptors descriptors = DuplicateDescriptors(*pair.client);
  const ServerParameters parameters = ParametersFor(*pair.client, generation, server_poll);
  pair.server.reset(new ChannelServer(parameters, pair.client->requests_, pair.client->responses_));
  pair.server->request_event_ = std::move(descriptors.request_event);
  for (UniqueFd& event : descriptors.completion_events) {
    pair.server->completion_events_.emplace_back(std::move(event));
  }
  return pair.server->Attach(generation);
}

}  // namespace bulkhead::channel
