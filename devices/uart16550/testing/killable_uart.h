#ifndef BULKHEAD_DEVICES_UART16550_TESTING_KILLABLE_UART_H_
#define BULKHEAD_DEVICES_UART16550_TESTING_KILLABLE_UART_H_

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "devices/host/testing/fake_services.h"
#include "devices/uart16550/uart_device.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::uart16550 {

// A UART whose processes die at chosen steps and are replaced, with what the device host and the
// channel do about it: what was applied is saved with its answer, what was not saved is applied
// again, what was saved is not. Thread-compatible.
class KillableUart {
 public:
  // `connect` gives the console of the next process. The process dies at each step for which
  // `dies_at` holds; steps count from 1.
  KillableUart(std::function<UniqueFd()> connect, std::function<bool(int)> dies_at)
      : connect_(std::move(connect)), dies_at_(std::move(dies_at)) {
    StartProcess();
  }
  ~KillableUart() { Kill(); }

  // The guest's accesses: each takes effect exactly once.
  uint8_t Read(uint8_t offset) {
    return static_cast<uint8_t>(Access([&] { return device_->Read(0, offset, 1); }));
  }
  void Write(uint8_t offset, uint8_t value) {
    Access([&] {
      device_->Write(0, offset, 1, value);
      return 0;
    });
  }
  // The process's loop: calls back for what is ready, after waiting up to `timeout_ms` for the
  // first. False: there was nothing.
  bool RunWatches(int timeout_ms = 0) {
    std::vector<pollfd> fds;
    for (const int fd : services_->watched()) fds.push_back({fd, POLLIN, 0});
    if (poll(fds.data(), fds.size(), timeout_ms) <= 0) return false;
    for (const pollfd& entry : fds) {
      // It may have died or changed its mind in between.
      if (entry.revents == 0 || services_->watched().count(entry.fd) == 0) continue;
      if (Dies()) return true;
      services_->FireWatch(entry.fd);
      if (Dies()) return true;
      Save(ticket_, answer_);
      if (Dies()) return true;
    }
    return true;
  }
  // An interrupt since the last call.
  bool TakeInterrupt() { return std::exchange(interrupt_, false); }

  // The next process starts as after power-on.
  void DiscardState() {
    Kill();
    state_.clear();
    StartProcess();
  }

  int steps() const { return steps_; }
  int processes() const { return processes_; }

 private:
  class Services : public FakeServices {
   public:
    explicit Services(bool& interrupt) : FakeServices({{0, 4096}}), interrupt_(interrupt) {}
    void SetIntx(bool level) override {
      // The event outlives the process.
      if (level && !intx()) interrupt_ = true;
      FakeServices::SetIntx(level);
    }
    absl::Status Watch(int fd, absl::AnyInvocable<void()> on_readable) override {
      watched_.insert(fd);
      return FakeServices::Watch(fd, std::move(on_readable));
    }
    void Unwatch(int fd) override {
      watched_.erase(fd);
      FakeServices::Unwatch(fd);
    }
    void StateChanged() override { changed = true; }
    const std::set<int>& watched() const { return watched_; }
    bool changed = false;

   private:
    bool& interrupt_;
    std::set<int> watched_;
  };

  template <typename Apply>
  uint64_t Access(const Apply& apply) {
    const uint64_t ticket = processed_ + 1;
    while (true) {
      // A predecessor has applied and saved it, and only did not answer.
      if (!state_.empty() && ticket_ == ticket) break;
      if (Dies()) continue;
      const uint64_t answer = apply();
      if (Dies()) continue;
      const bool changed = services_->changed;
      Save(ticket, answer);
      if (!changed) {
        processed_ = ticket;
        return answer;
      }
      if (!Dies()) break;
    }
    processed_ = ticket;
    return answer_;
  }

  void Save(uint64_t ticket, uint64_t answer) {
    if (!std::exchange(services_->changed, false)) return;
    state_.resize(device_->Describe().saved_state_bytes());
    state_.resize(device_->Save(absl::MakeSpan(state_)));
    ticket_ = ticket;
    answer_ = answer;
  }

  bool Dies() {
    if (!dies_at_(++steps_)) return false;
    Kill();
    StartProcess();
    return true;
  }
  // As by SIGKILL: its destructor has no effect outside.
  void Kill() {
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    dup3(null.get(), socket_, O_CLOEXEC);
    device_.reset();
    services_.reset();
  }
  void StartProcess() {
    ++processes_;
    services_ = std::make_unique<Services>(interrupt_);
    UniqueFd socket = connect_();
    socket_ = socket.get();
    services_->AddResource("console", std::move(socket));
    device_ = std::make_unique<UartDevice>(UartOptions());
    const absl::Status started = device_->Start(*services_);
    EXPECT_TRUE(started.ok()) << started;
    if (state_.empty()) return;
    const absl::Status restored = device_->Restore(state_);
    EXPECT_TRUE(restored.ok()) << restored;
  }

  const std::function<UniqueFd()> connect_;
  const std::function<bool(int)> dies_at_;
  int steps_ = 0;
  int processes_ = 0;
  bool interrupt_ = false;

  // What the vmm keeps.
  std::vector<uint8_t> state_;
  uint64_t ticket_ = 0;
  uint64_t answer_ = 0;
  uint64_t processed_ = 0;

  std::unique_ptr<Services> services_;
  std::unique_ptr<UartDevice> device_;
  int socket_ = -1;
};

// A guest's driver that does nothing without an interrupt, as Linux's: one that is lost stops it.
class InterruptDrivenGuest {
 public:
  explicit InterruptDrivenGuest(KillableUart& uart, std::string to_send)
      : uart_(uart), to_send_(std::move(to_send)) {
    uart_.Write(2, 7);  // FIFOs on and empty
    uart_.Write(4, 2);  // RTS
    uart_.Write(1, 3);  // interrupts for received data, transmitter empty
  }

  // False: there was no interrupt.
  bool Work() {
    if (!uart_.TakeInterrupt()) return false;
    while (true) {
      switch (uart_.Read(2) & 0x0f) {
        case 0x01:
          return true;
        case 0x02:
          for (int i = 0; i < 16 && sent_ < to_send_.size(); ++i) {
            uart_.Write(0, static_cast<uint8_t>(to_send_[sent_++]));
          }
          break;
        default:
          while ((uart_.Read(5) & 1) != 0) received_.push_back(static_cast<char>(uart_.Read(0)));
      }
    }
  }

  const std::string& received() const { return received_; }

 private:
  KillableUart& uart_;
  const std::string to_send_;
  size_t sent_ = 0;
  std::string received_;
};

}  // namespace bulkhead::devices::uart16550

#endif  // BULKHEAD_DEVICES_UART16550_TESTING_KILLABLE_UART_H_
