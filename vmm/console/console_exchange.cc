#include "vmm/console/console_exchange.h"

#include <stdint.h>

#include <algorithm>

namespace bulkhead::vmm {

// One client, shared with the hub's thread. The exchange's mutex guards all but `on_change`.
struct ConsoleExchange::Attached {
  explicit Attached(std::function<void()> callback) : on_change(std::move(callback)) {}

  void Append(absl::string_view bytes) {
    const size_t size = output.size() + bytes.size();
    if (size > kMaxClientBytes) {
      // More than necessary, so that a client that never reads does not cost a move for each
      // packet.
      const size_t lost = std::min(output.size(), size - kMaxClientBytes / 2);
      output.erase(0, lost);
      lost_bytes += lost;
    }
    output.append(bytes.data(), bytes.size());
  }

  absl::Mutex mutex;
  std::function<void()> on_change ABSL_GUARDED_BY(mutex);  // null: the client is gone

  std::string output;       // that the client has not taken
  uint64_t lost_bytes = 0;  // before `output`
  bool wants_room = false;  // a Type() did not take all
  bool changed = false;     // it is among changed_
};

class ConsoleExchange::Client final : public ConsoleHub::Client {
 public:
  Client(std::shared_ptr<ConsoleExchange> exchange, std::shared_ptr<Attached> attached)
      : exchange_(std::move(exchange)), attached_(std::move(attached)) {}
  ~Client() override {
    {
      absl::MutexLock lock(&exchange_->mutex_);
      std::erase(exchange_->clients_, attached_);
    }
    absl::MutexLock lock(&attached_->mutex);  // waits for a call that is under way
    attached_->on_change = nullptr;
  }

  size_t Type(absl::string_view bytes) override {
    size_t taken = 0;
    {
      absl::MutexLock lock(&exchange_->mutex_);
      if (!exchange_->closed_) taken = exchange_->stream_.AddInput(bytes);
      attached_->wants_room = taken < bytes.size();
    }
    if (taken != 0) exchange_->wake_.Signal();
    return taken;
  }

  bool Take(size_t limit, std::string& output, uint64_t& lost_bytes) override {
    absl::MutexLock lock(&exchange_->mutex_);
    if (attached_->output.empty()) return false;
    lost_bytes = std::exchange(attached_->lost_bytes, 0);
    if (attached_->output.size() <= limit) {
      output = std::exchange(attached_->output, {});
    } else {
      output = attached_->output.substr(0, limit);
      attached_->output.erase(0, limit);
    }
    return true;
  }

 private:
  const std::shared_ptr<ConsoleExchange> exchange_;
  const std::shared_ptr<Attached> attached_;
};

std::unique_ptr<ConsoleHub::Client> ConsoleExchange::Attach(std::function<void()> on_change) {
  auto client = std::make_shared<Attached>(std::move(on_change));
  {
    absl::MutexLock lock(&mutex_);
    client->Append(recent_.Replay());
    clients_.push_back(client);
    if (!client->output.empty()) AddChanged(client);
  }
  wake_.Signal();
  return std::make_unique<Client>(shared_from_this(), std::move(client));
}

void ConsoleExchange::Receive(absl::string_view packet, std::string& output) {
  absl::MutexLock lock(&mutex_);
  const absl::string_view bytes = stream_.Receive(packet);
  output.append(bytes.data(), bytes.size());
  recent_.Append(bytes);
  for (const std::shared_ptr<Attached>& client : clients_) {
    bool changed = client->output.empty() && !bytes.empty();
    client->Append(bytes);
    if (client->wants_room && stream_.input_room() != 0) {
      client->wants_room = false;
      changed = true;
    }
    if (changed) AddChanged(client);
  }
}

void ConsoleExchange::AddChanged(const std::shared_ptr<Attached>& client) {
  if (client->changed) return;
  client->changed = true;
  changed_.push_back(client);
}

void ConsoleExchange::CallChanged() {
  Clients changed;
  {
    absl::MutexLock lock(&mutex_);
    changed = std::exchange(changed_, {});
    for (const std::shared_ptr<Attached>& client : changed) client->changed = false;
  }
  for (const std::shared_ptr<Attached>& client : changed) {
    absl::MutexLock lock(&client->mutex);
    if (client->on_change) client->on_change();
  }
}

void ConsoleExchange::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

}  // namespace bulkhead::vmm
