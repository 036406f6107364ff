#ifndef BULKHEAD_VMM_CONNECTOR_CONNECTOR_PROCESS_H_
#define BULKHEAD_VMM_CONNECTOR_CONNECTOR_PROCESS_H_

#include <string>
#include <vector>

namespace bulkhead::vmm {

// A unix socket on which a program listens.
struct SocketPlace {
  std::string path = {};
  // Instead of the path: the socket's file, opened with O_PATH. One process after the other listens
  // there, so a ConnectAnswer does not say which.
  int anchor = -1;
};

// The connector. Call it in a new process, which may be a copy of one with several threads. Takes
// clients from `control`, each with the index of its place, and ends when the other end of that is
// closed, or its parent dies. A client of a place replaces the one before.
//
// A client that asks is given a connection as soon as there is one. Pauses between tries, and
// between connections that do not last, double from 10 ms to 1 s.
[[noreturn]] void RunConnector(int control, const std::vector<SocketPlace>& places, bool confined);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONNECTOR_CONNECTOR_PROCESS_H_
