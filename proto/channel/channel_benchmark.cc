#include <poll.h>
#include <sched.h>
#include <signal.h>
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

// What one access costs between two processes: this one is the vmm, a forked one the device.

namespace bulkhead::channel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr absl::Duration kTimeout = absl::Seconds(10);
constexpr absl::Duration kNoPoll = absl::ZeroDuration();
constexpr absl::Duration kPoll = absl::Microseconds(50);

// Both ends, the second in a process of its own.
class Channel {
 public:
  Channel(absl::Duration client_poll, absl::Duration device_poll)
      : client_(*ChannelClient::Create({.waiters = 2, .max_poll = client_poll})),
        device_(Fork(device_poll)) {
    while (client_->device_report().generation == 0) std::this_thread::yield();
  }
  ~Channel() {
    device_->Signal(SIGKILL).IgnoreError();
    device_->Wait(kTimeout).IgnoreError();
  }

  ChannelClient& client() { return *client_; }

  void Read(benchmark::State& state) {
    if (!client_->Call(Operation::kRead, 0, 0, 0, 4, 0, kTimeout).ok()) {
      state.SkipWithError("no answer");
    }
  }
  void Post(benchmark::State& state) {
    if (!client_->Post(0, 0, 0, 4, 0, kTimeout).ok()) state.SkipWithError("the ring stays full");
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
  void Report(benchmark::State& state) {
    if (nanoseconds_.empty()) return;
    std::sort(nanoseconds_.begin(), nanoseconds_.end());
    state.counters["p50_ns"] = nanoseconds_[nanoseconds_.size() / 2];
    state.counters["p99_ns"] = nanoseconds_[nanoseconds_.size() * 99 / 100];
  }

 private:
  std::vector<double> nanoseconds_;
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

// As fast as they go: mostly against a full ring.
void PostedWriteThroughput(benchmark::State& state) {
  Channel channel(kPoll, kPoll);
  for (auto _ : state) channel.Post(state);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(PostedWriteThroughput)->UseRealTime();

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
