#ifndef BULKHEAD_VMM_CONNECTOR_CONNECTOR_PROCESS_H_
#define BULKHEAD_VMM_CONNECTOR_CONNECTOR_PROCESS_H_

#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {

// A unix socket on which a program listens.
struct SocketPlace {
  std::string path = {};
  // Instead of the path: the socket's file, opened with O_PATH. One process after the other listens
  // there, so a ConnectAnswer does not say which.
  std::shared_ptr<const UniqueFd> anchor = nullptr;
};

// The connector: a side process whose clients' indices are those of their places. A client that
// asks is given a connection as soon as there is one. Pauses between tries, and between connections
// that do not last, double from 10 ms to 1 s. What earlier clients have asked its predecessor for,
// it does not know: they are told to ask again.
[[noreturn]] void RunConnector(const SideProcessStart& start,
                               const std::vector<SocketPlace>& places, bool confined);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONNECTOR_CONNECTOR_PROCESS_H_
