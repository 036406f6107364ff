#ifndef BULKHEAD_INTEGRATION_OUTAGE_ECHO_STREAM_H_
#define BULKHEAD_INTEGRATION_OUTAGE_ECHO_STREAM_H_

#include <stdint.h>

#include <atomic>
#include <string>
#include <thread>

#include "base/unique_fd.h"

namespace bulkhead::integration {

// A connection to a program that sends back all that it gets. A thread sends some bytes again and
// again, waits for them, for as long as it takes, and compares them. Thread-safe.
class EchoStream {
 public:
  explicit EchoStream(UniqueFd socket);
  // Closes the connection.
  ~EchoStream();

  // Bytes that came back as they were sent.
  uint64_t checked() const { return checked_; }
  // The other side has ended the connection.
  bool has_ended() const { return ended_; }
  // What came back was something else.
  bool is_wrong() const { return wrong_; }

 private:
  void Run();
  bool SendAll(const std::string& bytes);
  bool ReceiveAll(std::string& bytes);
  // False: the stream shall stop.
  bool AwaitEvent(int16_t event) const;

  const UniqueFd socket_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};
  std::atomic<bool> wrong_{false};
  std::atomic<uint64_t> checked_{0};
  std::thread thread_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_OUTAGE_ECHO_STREAM_H_
