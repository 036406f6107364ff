#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/memory_mapping.h"
#include "base/pid_fd.h"
#include "benchmark/benchmark.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_peer.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"

// What one access costs between two processes: this one is the vmm, a forked one the device. Beside
// it what two processes can do at best, without a channel (Bare...). tools/bench channel runs it.

namespace bulkhead::channel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr absl::Duration kTimeout = absl::Seconds(10);
constexpr absl::Duration kNoPoll = absl::ZeroDuration();
constexpr absl::Duration kPoll = absl::Microseconds(50);
constexpr int kMaxThreads = 4;

// Both ends, the second in a process of its own.
class Channel {
 public:
  Channel(absl::Duration client_poll, absl::Duration device_poll, uint32_t slots = 256)
      : client_(*ChannelClient::Create(
            {.slots = slots, .waiters = kMaxThreads, .max_poll = client_poll})),
        device_(Fork(device_poll)) {
    while (client_->device_report().generation == 0) std::this_thread::yield();
  }
  ~Channel() {
    device_->Signal(SIGKILL).IgnoreError();
    device_->Wait(kTimeout).IgnoreError();
  }

  ChannelClient& client() { return *client_; }

  void Read(benchmark::State& state, uint32_t waiter = 0) {
    if (!client_->Call(Operation::kRead, waiter, 0, 0, 4, 0, kTimeout).ok()) {
      state.SkipWithError("no answer");
    }
  }
  void Post(benchmark::State& state, uint32_t waiter = 0) {
    if (!client_->Post(waiter, 0, 0, 4, 0, kTimeout).ok()) {
      state.SkipWithError("the ring stays full");
    }
  }
  // To the CPUs that this process may use.
  void MoveDeviceHere() {
    cpu_set_t cpus;
    sched_getaffinity(0, sizeof(cpus), &cpus);
    sched_setaffinity(device_->pid(), sizeof(cpus), &cpus);
  }
  void AwaitDeviceAsleep() {
    while (!ChannelPeer::DeviceSleeps(*client_)) std::this_thread::yield();
    // From the announcement to the system call that blocks.
    const auto until = Clock::now() + std::chrono::microseconds(20);
    while (Clock::now() < until) PollPause();
  }

 private:
  std::unique_ptr<PidFd> Fork(absl::Duration poll) {
    const pid_t child = fork();
    if (child != 0) return std::make_unique<PidFd>(*PidFd::Open(child));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Serve(**ConnectServer(*client_, 1, poll));
  }

  [[noreturn]] static void Serve(ChannelServer& server) {
    while (true) {
      ChannelServer::Request request;
      while (server.TryPeek(request)) {
        if (request.operation == Operation::kPostedWrite) {
          server.Retire(request);
        } else {
          server.Complete(request, request.ticket);
        }
      }
      if (server.PollForRequest()) continue;
      if (!server.PrepareToSleep()) continue;
      pollfd event = {.fd = server.event_fd(), .events = POLLIN, .revents = 0};
      poll(&event, 1, -1);
      server.AfterSleep();
    }
  }

  const std::unique_ptr<ChannelClient> client_;
  const std::unique_ptr<PidFd> device_;
};

// Times single accesses; reports the median and the 99th percentile.
class Samples {
 public:
  template <typename Access>
  void Time(Access access) {
    const auto start = Clock::now();
    access();
    nanoseconds_.push_back(std::chrono::duration<double, std::nano>(Clock::now() - start).count());
  }
  // With several threads: the mean of theirs.
  void Report(benchmark::State& state) {
    if (nanoseconds_.empty()) return;
    std::sort(nanoseconds_.begin(), nanoseconds_.end());
    const auto at = [&](size_t percent) {
      return benchmark::Counter(nanoseconds_[nanoseconds_.size() * percent / 100],
                                benchmark::Counter::kAvgThreads);
    };
    state.counters["p50_ns"] = at(50);
    state.counters["p99_ns"] = at(99);
  }

 private:
  std::vector<double> nanoseconds_;
};

// A process that answers what this one sends through `Way`: no ring, no requests.
template <typename Way>
class BarePeer {
 public:
  BarePeer() {
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) way_.Answer();
    }
    process_ = std::make_unique<PidFd>(*PidFd::Open(child));
  }
  ~BarePeer() {
    process_->Signal(SIGKILL).IgnoreError();
    process_->Wait(kTimeout).IgnoreError();
  }
  void RoundTrip() { way_.RoundTrip(); }

 private:
  Way way_;
  std::unique_ptr<PidFd> process_;
};

// Both sleep: eventfd(2), blocking.
class EventFds {
 public:
  void RoundTrip() {
    Write(there_);
    Read(back_);
  }
  void Answer() {
    Read(there_);
    Write(back_);
  }

 private:
  static void Write(int fd) {
    if (eventfd_write(fd, 1) != 0) abort();
  }
  static void Read(int fd) {
    eventfd_t value;
    if (eventfd_read(fd, &value) != 0) abort();
  }
  const int there_ = eventfd(0, EFD_CLOEXEC);
  const int back_ = eventfd(0, EFD_CLOEXEC);
};

// Both spin: a word each way, in cache lines of their own.
class SharedWords {
 public:
  void RoundTrip() {
    words_->there.store(++sent_, std::memory_order_release);
    while (words_->back.load(std::memory_order_acquire) != sent_) PollPause();
  }
  void Answer() {
    ++sent_;
    while (words_->there.load(std::memory_order_acquire) != sent_) PollPause();
    words_->back.store(sent_, std::memory_order_release);
  }

 private:
  struct Words {
    alignas(kCacheLineBytes) std::atomic<uint64_t> there;
    alignas(kCacheLineBytes) std::atomic<uint64_t> back;
  };
  Words* const words_ = static_cast<Words*>(
      mmap(nullptr, sizeof(Words), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  uint64_t sent_ = 0;
};

// Restricts this process, and those that it forks, to its first CPU.
class OneCpu {
 public:
  OneCpu() {
    sched_getaffinity(0, sizeof(before_), &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &before_)) {
        CPU_SET(cpu, &one);
        break;
      }
    }
    sched_setaffinity(0, sizeof(one), &one);
  }
  ~OneCpu() { sched_setaffinity(0, sizeof(before_), &before_); }

 private:
  cpu_set_t before_;
};

// The vmm's end alone: one thread is both ends, so nobody waits and nothing is shared.
void PostAlone(benchmark::State& state) {
  const auto client = *ChannelClient::Create({.waiters = 2, .max_poll = kPoll});
  const auto server = *ConnectServer(*client);
  ChannelServer::Request request;
  for (auto _ : state) {
    if (!client->Post(0, 0, 0, 4, 0, kTimeout).ok() || !server->TryPeek(request)) {
      state.SkipWithError("lost");
    }
    server->Retire(request);
  }
}
BENCHMARK(PostAlone);

// The answer is there before the call.
void CallAlone(benchmark::State& state) {
  const auto client = *ChannelClient::Create({.waiters = 2, .max_poll = kPoll});
  const MemoryMapping mapping =
      *MemoryMapping::Map(client->response_memory_fd(), 0, ResponseView::SizeBytes(2),
                          MemoryMapping::Protection::kReadWrite);
  const ResponseView responses(mapping.data());
  uint64_t ticket = 0;
  for (auto _ : state) {
    responses.completion(0).ticket.store(++ticket, std::memory_order_relaxed);
    if (!client->Call(Operation::kRead, 0, 0, 0, 4, 0, kTimeout).ok()) {
      state.SkipWithError("no answer");
    }
    responses.header().head.store(ticket, std::memory_order_relaxed);
  }
}
BENCHMARK(CallAlone);

template <typename Way>
void BareRoundTrip(benchmark::State& state) {
  BarePeer<Way> peer;
  Samples samples;
  for (auto _ : state) samples.Time([&] { peer.RoundTrip(); });
  samples.Report(state);
}
BENCHMARK_TEMPLATE(BareRoundTrip, SharedWords)->UseRealTime();
BENCHMARK_TEMPLATE(BareRoundTrip, EventFds)->UseRealTime();

// As many threads as vCPUs would be, each a waiter. `access` is called with the thread's number.
template <typename Access>
void OnThreads(benchmark::State& state, std::unique_ptr<Channel>& channel, uint32_t slots,
               Access access) {
  if (state.thread_index() == 0) channel = std::make_unique<Channel>(kPoll, kPoll, slots);
  Samples samples;
  for (auto _ : state) {
    samples.Time([&] { access(*channel, static_cast<uint32_t>(state.thread_index())); });
  }
  samples.Report(state);
  state.SetItemsProcessed(state.iterations());
  if (state.thread_index() == 0) channel.reset();
}

// As fast as they go: mostly against a full ring, of so many slots.
void PostedWriteThroughput(benchmark::State& state) {
  static std::unique_ptr<Channel> channel;
  OnThreads(state, channel, static_cast<uint32_t>(state.range(0)),
            [&](Channel& one, uint32_t thread) { one.Post(state, thread); });
}
BENCHMARK(PostedWriteThroughput)->Arg(16)->Arg(256)->ThreadRange(1, kMaxThreads)->UseRealTime();

void ReadThroughput(benchmark::State& state) {
  static std::unique_ptr<Channel> channel;
  OnThreads(state, channel, 256, [&](Channel& one, uint32_t thread) { one.Read(state, thread); });
}
BENCHMARK(ReadThroughput)->ThreadRange(1, kMaxThreads)->UseRealTime();

// One at a time, 5 us apart, as exits of a guest are: the device polls.
void PostedWriteToAPollingDevice(benchmark::State& state) {
  Channel channel(kPoll, absl::Milliseconds(1));
  Samples samples;
  for (auto _ : state) {
    samples.Time([&] { channel.Post(state); });
    const auto until = Clock::now() + std::chrono::microseconds(5);
    while (Clock::now() < until) PollPause();
  }
  samples.Report(state);
}
BENCHMARK(PostedWriteToAPollingDevice)->UseRealTime()->Iterations(50000);

void PostedWriteToASleepingDevice(benchmark::State& state) {
  Channel channel(kNoPoll, kNoPoll);
  Samples samples;
  for (auto _ : state) {
    channel.AwaitDeviceAsleep();
    samples.Time([&] { channel.Post(state); });
  }
  samples.Report(state);
}
BENCHMARK(PostedWriteToASleepingDevice)->UseRealTime()->Iterations(5000);

void ReadPolled(benchmark::State& state) {
  Channel channel(kPoll, kPoll);
  Samples samples;
  for (auto _ : state) samples.Time([&] { channel.Read(state); });
  samples.Report(state);
}
BENCHMARK(ReadPolled)->UseRealTime();

// Both ends sleep each time.
void ReadAsleep(benchmark::State& state) {
  Channel channel(kNoPoll, kNoPoll);
  Samples samples;
  for (auto _ : state) {
    channel.AwaitDeviceAsleep();
    samples.Time([&] { channel.Read(state); });
  }
  samples.Report(state);
}
BENCHMARK(ReadAsleep)->UseRealTime()->Iterations(5000);

// The device sleeps each time, the waiter polls.
void ReadFromASleepingDevice(benchmark::State& state) {
  Channel channel(kPoll, kNoPoll);
  Samples samples;
  for (auto _ : state) {
    channel.AwaitDeviceAsleep();
    samples.Time([&] { channel.Read(state); });
  }
  samples.Report(state);
}
BENCHMARK(ReadFromASleepingDevice)->UseRealTime()->Iterations(5000);

// One CPU for both. Argument: are both allowed to poll (as if they did not know)?
void ReadOnOneCpu(benchmark::State& state) {
  const absl::Duration poll = state.range(0) != 0 ? kPoll : kNoPoll;
  Channel channel(poll, poll);  // before the CPUs are taken away, or it would not poll
  const OneCpu one_cpu;
  channel.MoveDeviceHere();
  Samples samples;
  for (auto _ : state) samples.Time([&] { channel.Read(state); });
  samples.Report(state);
}
BENCHMARK(ReadOnOneCpu)->Arg(0)->Arg(1)->UseRealTime();

// As many busy threads as there are CPUs, as of other vCPUs. Argument: may both poll?
void ReadBesideBusyThreads(benchmark::State& state) {
  const absl::Duration poll = state.range(0) != 0 ? kPoll : kNoPoll;
  Channel channel(poll, poll);
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int i = 0; i < AvailableCpus(); ++i) {
    busy.emplace_back([&stop] {
      while (!stop.load(std::memory_order_relaxed)) PollPause();
    });
  }
  Samples samples;
  for (auto _ : state) samples.Time([&] { channel.Read(state); });
  samples.Report(state);
  stop.store(true);
  for (std::thread& thread : busy) thread.join();
}
BENCHMARK(ReadBesideBusyThreads)->Arg(0)->Arg(1)->UseRealTime();

}  // namespace
}  // namespace bulkhead::channel
