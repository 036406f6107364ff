#include "vmm/console/console_exchange.h"

#include <algorithm>

namespace bulkhead::vmm {

void ClientOutput::Append(absl::string_view bytes) {
  const size_t size = bytes_.size() + bytes.size();
  if (size > kMaxBytes) {
    // More than need be, so that a client that never reads does not cost a move for each packet.
    const size_t lost = std::min(bytes_.size(), size - kMaxBytes / 2);
    bytes_.erase(0, lost);
    lost_bytes_ += lost;
  }
  bytes_.append(bytes.data(), bytes.size());
}

bool ClientOutput::Take(size_t limit, std::string& output, uint64_t& lost_bytes) {
  if (bytes_.empty()) return false;
  lost_bytes = std::exchange(lost_bytes_, 0);
  if (bytes_.size() <= limit) {
    output = std::exchange(bytes_, {});
  } else {
    output = bytes_.substr(0, limit);
    bytes_.erase(0, limit);
  }
  return true;
}

void ConsoleExchange::Listener::Call() {
  absl::MutexLock lock(&mutex_);
  if (on_change_) on_change_();
}

void ConsoleExchange::Listener::Silence() {
  absl::MutexLock lock(&mutex_);
  on_change_ = nullptr;
}

void ConsoleExchange::Add(const std::shared_ptr<Listener>& listener) {
  {
    absl::MutexLock lock(&mutex_);
    listener->output_.Append(recent_.Replay());
    listeners_.push_back(listener);
    if (listener->output_.empty()) return;
    AddChanged(listener);
  }
  wake_.Signal();
}

void ConsoleExchange::Remove(const std::shared_ptr<Listener>& listener) {
  absl::MutexLock lock(&mutex_);
  listeners_.erase(std::remove(listeners_.begin(), listeners_.end(), listener), listeners_.end());
}

size_t ConsoleExchange::Type(Listener& listener, absl::string_view bytes) {
  size_t taken = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (!closed_) taken = stream_.AddInput(bytes);
    listener.wants_room_ = taken < bytes.size();
  }
  if (taken != 0) wake_.Signal();
  return taken;
}

bool ConsoleExchange::Take(Listener& listener, size_t limit, std::string& output,
                           uint64_t& lost_bytes) {
  absl::MutexLock lock(&mutex_);
  return listener.output_.Take(limit, output, lost_bytes);
}

void ConsoleExchange::Receive(absl::string_view packet, std::string& output) {
  absl::MutexLock lock(&mutex_);
  const absl::string_view bytes = stream_.Receive(packet);
  output.append(bytes.data(), bytes.size());
  recent_.Append(bytes);
  for (const std::shared_ptr<Listener>& listener : listeners_) {
    bool changed = listener->output_.empty() && !bytes.empty();
    listener->output_.Append(bytes);
    if (listener->wants_room_ && stream_.input_room() != 0) {
      listener->wants_room_ = false;
      changed = true;
    }
    if (changed) AddChanged(listener);
  }
}

void ConsoleExchange::AddChanged(const std::shared_ptr<Listener>& listener) {
  if (listener->changed_) return;
  listener->changed_ = true;
  changed_.push_back(listener);
}

void ConsoleExchange::CallChanged() {
  Listeners changed;
  {
    absl::MutexLock lock(&mutex_);
    changed = std::exchange(changed_, {});
    for (const std::shared_ptr<Listener>& listener : changed) listener->changed_ = false;
  }
  for (const std::shared_ptr<Listener>& listener : changed) listener->Call();
}

void ConsoleExchange::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

}  // namespace bulkhead::vmm
