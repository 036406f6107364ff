#include "vmm/service/service_status.h"

#include <stddef.h>

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kEventsAtOnce = 64;

std::string Word(v1::VmStatus::State state) {
  return absl::AsciiStrToLower(v1::VmStatus::State_Name(state));
}

std::string Word(v1::Device::State state) {
  return absl::AsciiStrToLower(v1::Device::State_Name(state));
}

// One line: a newline would begin another variable.
std::string OneLine(std::string text) {
  for (char& c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  return text;
}

}  // namespace

ServiceStatus::ServiceStatus(const NotifySocket& socket, EventLog& events)
    : socket_(socket), events_(events) {
  if (!socket_.connected()) return;
  listener_ = events_.Listen([this] { OnAppend(); });
  socket_.Send("READY=1");
  OnAppend();  // a device may have failed by now
}

ServiceStatus::~ServiceStatus() {
  if (socket_.connected()) events_.Unlisten(listener_);
}

void ServiceStatus::OnAppend() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    const std::vector<v1::Event> events = events_.EventsAfter(seen_, kEventsAtOnce);
    for (const v1::Event& event : events) Take(event);
    if (events.empty()) break;
    seen_ = events.back().sequence();
  }
  std::string line = Line();
  if (line == sent_) return;
  sent_ = std::move(line);
  socket_.Send(sent_);
}

void ServiceStatus::Take(const v1::Event& event) {
  if (event.has_vm_state()) {
    vm_ = event.vm_state().state();
    reason_ = event.vm_state().reason();
  } else if (event.has_device_state()) {
    const v1::DeviceStateChanged& change = event.device_state();
    if (change.to() == v1::Device::RUNNING) {
      not_running_.erase(change.device());
    } else {
      not_running_[change.device()] = change.to();
    }
  }
}

std::string ServiceStatus::Line() const {
  std::string text = Word(vm_);
  if (!reason_.empty()) absl::StrAppend(&text, ": ", reason_);
  for (const auto& [device, state] : not_running_) {
    absl::StrAppend(&text, "; ", device, " ", Word(state));
  }
  return absl::StrCat(vm_ == v1::VmStatus::ENDING ? "STOPPING=1\n" : "",
                      "STATUS=", OneLine(std::move(text)));
}

}  // namespace bulkhead::vmm
