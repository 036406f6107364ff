// Every way in which a device process can die between two steps of its virtqueue's code, with the
// driver acting at any of them, and again in the process that follows, up to a number of requests:
// no request is lost, none completed twice or done again after the driver knew it as done, all
// come in their order, and no notification is missing.
//
// The code is the real one: it is compiled so that each of its steps calls the test. What a dying
// process leaves is no more than memory, so the test keeps a copy of that at each step, and lets a
// new process go on from each copy.
#include <stdint.h>
#include <stdio.h>

#include <deque>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "devices/host/testing/fake_services.h"
#include "devices/virtio/recovery_model/recovery_world.h"
#include "devices/virtio/virtqueue_step.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

Model* current = nullptr;

enum class Kind : uint8_t { kNothing, kStart, kServe, kComplete, kPublish, kRebind, kAdd, kTake };
constexpr const char* kNames[] = {"nothing", "start",  "serve", "complete",
                                  "publish", "rebind", "add",   "take"};

// What happens next, and what the driver does on its own CPU before step number `at` of it.
struct Action {
  Kind kind = Kind::kNothing;
  uint8_t which = 0;
  Kind meanwhile = Kind::kNothing;
  int at = 0;
};

class Explorer {
 public:
  Explorer(const ModelOptions& options, const GuestMemory& memory) : model_(options, memory) {
    current = &model_;
    model_.set_on_step([this](const char* name) { OnStep(name); });
    synchronous_ = options.synchronous;
  }

  void Run() {
    AddDead(model_.First());
    while (!dead_.empty()) {
      start_ = std::move(dead_.front());
      dead_.pop_front();
      paths_.push_back({});
      while (!paths_.empty()) {
        path_ = std::move(paths_.back());
        paths_.pop_back();
        for (const Action& action : PossibleActions()) Try(action);
      }
    }
  }

  size_t dead_states() const { return dead_seen_.size(); }
  size_t live_states() const { return live_seen_.size(); }
  size_t runs() const { return runs_; }

 private:
  void Replay() {
    recording_ = false;
    model_.Load(start_);
    for (const Action& action : path_) Perform(action);
  }

  std::vector<Action> PossibleActions() {
    Replay();
    std::vector<Action> actions;
    if (model_.CanAdd()) actions.push_back({Kind::kAdd});
    if (model_.CanTake()) actions.push_back({Kind::kTake});
    if (!model_.alive()) actions.push_back({Kind::kStart});
    if (model_.CanServe()) actions.push_back({Kind::kServe});
    for (size_t i = 0; i < model_.popped(); ++i) {
      actions.push_back({Kind::kComplete, static_cast<uint8_t>(i)});
    }
    if (model_.CanPublish()) actions.push_back({Kind::kPublish});
    if (model_.CanRebind()) actions.push_back({Kind::kRebind});
    return actions;
  }

  // Goes there undisturbed, then with the driver acting before each of the steps.
  void Try(Action action) {
    const int steps = RunOnce(action);
    for (const Kind meanwhile : {Kind::kAdd, Kind::kTake}) {
      for (int at = 0; at < steps; ++at) {
        action.meanwhile = meanwhile;
        action.at = at;
        RunOnce(action);
      }
    }
  }

  int RunOnce(const Action& action) {
    ++runs_;
    Replay();
    recording_ = true;
    acted_ = action.meanwhile == Kind::kNothing;
    Perform(action);
    recording_ = false;
    const int steps = step_;
    if (!acted_) return steps;  // the driver could not do that there
    const World world = model_.Capture();
    if (model_.alive()) {
      std::string key = world.Key() + model_.ProcessKey();
      if (live_seen_.insert(std::move(key)).second) {
        path_.push_back(action);
        paths_.push_back(path_);
        model_.Finish();
        path_.pop_back();
      }
    }
    AddDead(world);
    return steps;
  }

  void Perform(const Action& action) {
    action_ = action;
    step_ = 0;
    switch (action.kind) {
      case Kind::kStart:
        return model_.StartProcess();
      case Kind::kServe:
        return model_.Serve();
      case Kind::kComplete:
        return model_.Complete(action.which);
      case Kind::kPublish:
        return model_.Publish();
      case Kind::kRebind:
        return model_.Rebind();
      default:
        return Drive(action.kind);
    }
  }

  void Drive(Kind kind) {
    if (kind == Kind::kAdd) model_.Add();
    if (kind == Kind::kTake) model_.Take();
  }

  void OnStep(const char* name) {
    if (name == nullptr) {
      Report();
      return;
    }
    if (step_++ == action_.at && action_.meanwhile != Kind::kNothing) {
      const bool can = action_.meanwhile == Kind::kAdd ? model_.CanAdd() : model_.CanTake();
      if (can) {
        acted_ = true;
        Drive(action_.meanwhile);
      }
    }
    // Who died before the driver acted has been seen already.
    if (recording_ && acted_) AddDead(model_.Capture());
  }

  void AddDead(World world) {
    if (!dead_seen_.insert(world.Key()).second) return;
    dead_.push_back(std::move(world));
  }

  void Report() {
    fprintf(stderr, "  on the way from a state with %d requests made:\n", start_.made);
    for (const Action& action : path_) Print(action);
    Print(action_);
    fprintf(stderr, "  at step %d\n", step_);
  }
  static void Print(const Action& action) {
    fprintf(stderr, "    %s %d", kNames[static_cast<int>(action.kind)], action.which);
    if (action.meanwhile != Kind::kNothing) {
      fprintf(stderr, ", %s before step %d", kNames[static_cast<int>(action.meanwhile)], action.at);
    }
    fprintf(stderr, "\n");
  }

  Model model_;
  bool synchronous_;
  std::deque<World> dead_;  // whose successors are to be tried
  std::unordered_set<std::string> dead_seen_;
  std::unordered_set<std::string> live_seen_;
  World start_;
  std::vector<Action> path_;  // from there
  std::vector<std::vector<Action>> paths_;
  Action action_;
  int step_ = 0;
  bool acted_ = false;
  bool recording_ = false;
  size_t runs_ = 0;
};

struct ModelCase {
  const char* name;
  ModelOptions options;
};

std::ostream& operator<<(std::ostream& out, const ModelCase& c) { return out << c.name; }

class RecoveryModelTest : public testing::TestWithParam<ModelCase> {};

TEST_P(RecoveryModelTest, NothingIsLostAndNothingDoneTwice) {
  const FakeServices services({{0, 4096}});
  Explorer explorer(GetParam().options, services.memory());
  explorer.Run();
  printf("%zu states without and %zu with a process, %zu runs\n", explorer.dead_states(),
         explorer.live_states(), explorer.runs());
  EXPECT_GT(explorer.dead_states(), 500u) << "this is not all that can happen";
}

const ModelCase kCases[] = {
    {"Flags", {.queue_size = 2, .requests = 5}},
    {"EventIndex", {.event_index = true, .queue_size = 2, .requests = 5}},
    {"LargerQueue", {.event_index = true, .queue_size = 4, .requests = 3}},
    {"Synchronous", {.event_index = true, .synchronous = true, .queue_size = 4, .requests = 4}},
    {"Pairs", {.event_index = true, .pairs = true, .queue_size = 2, .requests = 6}},
    {"IndicesWrap", {.event_index = true, .queue_size = 2, .requests = 4, .first_index = 0xfffe}},
    {"Rebound", {.queue_size = 2, .requests = 4, .rebinds = 2}},
};

INSTANTIATE_TEST_SUITE_P(All, RecoveryModelTest, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace

void OnVirtqueueStep(const char* name) { current->Step(name); }

}  // namespace bulkhead::devices::virtio
