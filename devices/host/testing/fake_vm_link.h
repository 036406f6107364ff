#ifndef BULKHEAD_DEVICES_HOST_TESTING_FAKE_VM_LINK_H_
#define BULKHEAD_DEVICES_HOST_TESTING_FAKE_VM_LINK_H_

#include <stdint.h>
#include <sys/socket.h>

#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "devices/host/testing/fake_services.h"
#include "proto/vm_link.h"

namespace bulkhead::devices {

// The vmm's end of proto/vm_link.h in a test. Thread-compatible.
class FakeVmLink {
 public:
  // Gives the model that starts next a new socket. Reports of its predecessor are taken first.
  void Connect(FakeServices& services) {
    TakeAll();
    asked_ = news_.answered = 0;
    auto sockets = CreateSocketPair(SOCK_SEQPACKET).value();
    socket_ = std::move(sockets.first);
    Tell();
    services.AddResource(kVmLinkResource, std::move(sockets.second));
  }

  // Answers what was asked, if it was.
  void Answer() {
    TakeAll();
    if (asked_ == news_.answered) return;
    news_.answered = asked_;
    Tell();
  }
  void StopClock() {
    news_.clock_stops_since_ns = NowNs();
    Tell();
  }
  void ContinueClock() {
    news_.clock_stopped_ns += NowNs() - std::exchange(news_.clock_stops_since_ns, 0);
    Tell();
  }

  // The kinds of the reports since the last call, each number once.
  std::vector<uint32_t> TakeReports() {
    TakeAll();
    return std::exchange(reports_, {});
  }

 private:
  static uint64_t NowNs() { return static_cast<uint64_t>(absl::ToUnixNanos(SteadyNow())); }
  void Tell() const { send(socket_.get(), &news_, sizeof(news_), MSG_DONTWAIT); }

  void TakeAll() {
    VmReport report;
    while (recv(socket_.get(), &report, sizeof(report), MSG_DONTWAIT) == sizeof(report)) {
      if (report.kind == VmReport::kAsk) asked_ = report.number;
      if (report.kind == VmReport::kAsk || report.number != news_.reports_taken + 1) continue;
      ++news_.reports_taken;
      reports_.push_back(report.kind);
    }
  }

  UniqueFd socket_;
  VmNews news_;
  uint64_t asked_ = 0;
  std::vector<uint32_t> reports_;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_TESTING_FAKE_VM_LINK_H_
