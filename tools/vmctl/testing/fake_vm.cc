// fake_vm SOCKET SCENARIO: serves VmControl on that socket with the answers of a scenario file
// (scenario.proto, text format), and does what its standard input says, a command a line:
//   event EVENT         sends that event (text format) to all who watch
//   output BYTES        the guest prints (C escapes)
//   lost N BYTES        the same, after N bytes that were lost
//   refuse CODE TEXT    from now on plain calls fail with that status code (a number)
//   button off          the guest does not listen to its power button
//   hang                from now on plain calls are not answered
//   end                 ends every stream with UNAVAILABLE, and this process
// Standard output has a line for each step: ready, obeyed (a command), and the actions of clients:
// call METHOD {REQUEST}, watched, attached DEVICE, typed BYTES, detached.

#include <unistd.h>

#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/json_util.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/server_context.h"
#include "proto/vm_control.grpc.pb.h"
#include "tools/vmctl/testing/fake_console.h"
#include "tools/vmctl/testing/fake_events.h"
#include "tools/vmctl/testing/scenario.pb.h"

namespace bulkhead::vmctl {
namespace {

// One line, at once: a test waits for it.
void Tell(const std::string& line) {
  const std::string whole = line + "\n";
  (void)!write(STDOUT_FILENO, whole.data(), whole.size());
}

using Service = v1::VmControl::WithCallbackMethod_AttachConsole<v1::VmControl::Service>;

class FakeVm : public Service {
 public:
  explicit FakeVm(Scenario scenario) : scenario_(std::move(scenario)), console_(Tell) {
    for (const v1::Event& event : scenario_.events()) events_.Append(event);
    for (v1::Device& device : *scenario_.mutable_devices()) {
      if (!device.has_heartbeat() || device.heartbeat().last().seconds() >= 0) continue;
      google::protobuf::Timestamp& last = *device.mutable_heartbeat()->mutable_last();
      last.set_seconds(absl::ToUnixSeconds(absl::Now()) + last.seconds());
    }
  }

  FakeEvents& events() { return events_; }
  FakeConsole& console() { return console_; }

  void Refuse(grpc::StatusCode code, const std::string& text) {
    absl::MutexLock lock(&mutex_);
    answer_ = grpc::Status(code, text);
  }
  void TurnPowerButtonOff() {
    absl::MutexLock lock(&mutex_);
    power_button_is_off_ = true;
  }
  void Hang() {
    absl::MutexLock lock(&mutex_);
    hangs_ = true;
  }
  void End() {
    {
      absl::MutexLock lock(&mutex_);
      hangs_ = false;
    }
    events_.End();
    console_.End();
  }

#define PLAIN_CALL(method)                                                      \
  grpc::Status method(grpc::ServerContext*, const v1::method##Request* request, \
                      v1::method##Reply*) override {                            \
    return Called(#method, *request);                                           \
  }
  PLAIN_CALL(Wake)
  PLAIN_CALL(Stop)
  PLAIN_CALL(Pause)
  PLAIN_CALL(Resume)
#undef PLAIN_CALL

  grpc::Status Shutdown(grpc::ServerContext*, const v1::ShutdownRequest* request,
                        v1::ShutdownReply* reply) override {
    {
      absl::MutexLock lock(&mutex_);
      reply->set_kept(power_button_is_off_);
    }
    return Called("Shutdown", *request);
  }

#define DEVICE_CALL(method)                                                                        \
  grpc::Status method(grpc::ServerContext*, const v1::method##Request* request, v1::Device* reply) \
      override {                                                                                   \
    return DeviceCalled(#method, *request, *reply);                                                \
  }
  DEVICE_CALL(GetDevice)
  DEVICE_CALL(RestartDevice)
  DEVICE_CALL(ResizeDisk)
  DEVICE_CALL(LimitDevice)
  DEVICE_CALL(ResetDevice)
  DEVICE_CALL(StopDevice)
  DEVICE_CALL(StartDevice)
  DEVICE_CALL(SetDeviceLink)
#undef DEVICE_CALL

  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest* request,
                         v1::VmStatus* reply) override {
    *reply = scenario_.status();
    return Called("GetStatus", *request);
  }

  grpc::Status ListDevices(grpc::ServerContext*, const v1::ListDevicesRequest* request,
                           v1::ListDevicesReply* reply) override {
    *reply->mutable_devices() = scenario_.devices();
    return Called("ListDevices", *request);
  }

  grpc::Status GetBalloon(grpc::ServerContext*, const v1::GetBalloonRequest* request,
                          v1::Balloon* reply) override {
    reply->set_device("balloon");
    reply->set_target_bytes(64 << 20);
    reply->set_actual_bytes(1000 << 10);
    reply->set_memory_bytes(512 << 20);
    return Called("GetBalloon", *request);
  }

  grpc::Status SetBalloon(grpc::ServerContext*, const v1::SetBalloonRequest* request,
                          v1::Balloon* reply) override {
    reply->set_target_bytes(request->target_bytes());
    reply->set_memory_bytes(512 << 20);
    return Called("SetBalloon", *request);
  }

  grpc::Status GetMetrics(grpc::ServerContext*, const v1::GetMetricsRequest* request,
                          v1::VmMetrics* reply) override {
    (void)google::protobuf::util::JsonStringToMessage(scenario_.metrics_json(), reply);
    return Called("GetMetrics", *request);
  }

  grpc::Status WatchEvents(grpc::ServerContext*, const v1::WatchEventsRequest* request,
                           grpc::ServerWriter<v1::Event>* writer) override {
    v1::Event event;
    event.set_sequence(7);
    event.mutable_time()->set_seconds(scenario_.status().start_time().seconds() + 110);
    *event.mutable_snapshot()->mutable_status() = scenario_.status();
    *event.mutable_snapshot()->mutable_devices() = scenario_.devices();
    writer->Write(event);
    if (!request->only_past()) Tell("watched");
    const size_t past = static_cast<size_t>(scenario_.events_size());
    for (size_t i = 0; !request->only_past() || i < past; ++i) {
      if (!events_.Await(i, event) || !writer->Write(event)) {
        return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the VM is ending");
      }
    }
    return grpc::Status::OK;
  }

  FakeConsole::Reactor* AttachConsole(grpc::CallbackServerContext*) override {
    return console_.Attach();
  }

 private:
  grpc::Status Called(const char* method, const google::protobuf::Message& request) {
    Tell(absl::StrCat("call ", method, " {", request.ShortDebugString(), "}"));
    absl::MutexLock lock(&mutex_);
    const auto answers = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !hangs_; };
    mutex_.Await(absl::Condition(&answers));
    return answer_;
  }

  template <typename Request>
  grpc::Status DeviceCalled(const char* method, const Request& request, v1::Device& reply) {
    grpc::Status status = Called(method, request);
    if (!status.ok()) return status;
    for (const v1::Device& device : scenario_.devices()) {
      if (device.name() != request.name()) continue;
      reply = device;
      return grpc::Status::OK;
    }
    return grpc::Status(grpc::StatusCode::NOT_FOUND,
                        absl::StrCat("there is no device \"", request.name(), "\""));
  }

  Scenario scenario_;  // constant once constructed
  FakeEvents events_;
  FakeConsole console_;
  absl::Mutex mutex_;
  grpc::Status answer_ ABSL_GUARDED_BY(mutex_);
  bool power_button_is_off_ ABSL_GUARDED_BY(mutex_) = false;
  bool hangs_ ABSL_GUARDED_BY(mutex_) = false;
};

std::string Unescaped(absl::string_view text) {
  std::string bytes;
  if (!absl::CUnescape(text, &bytes)) std::cerr << "fake_vm: not C-escaped: " << text << "\n";
  return bytes;
}

// False: "end", or nothing that it knows.
bool Obey(const std::string& line, FakeVm& vm) {
  const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 1));
  const std::string rest = words.size() > 1 ? words[1] : "";
  if (words[0] == "event") {
    v1::Event event;
    if (!google::protobuf::TextFormat::ParseFromString(rest, &event)) return false;
    vm.events().Append(event);
  } else if (words[0] == "output") {
    v1::ConsoleOutput output;
    output.set_data(Unescaped(rest));
    vm.console().Send(output);
  } else if (words[0] == "lost") {
    const std::vector<std::string> parts = absl::StrSplit(rest, absl::MaxSplits(' ', 1));
    uint64_t lost = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &lost)) return false;
    v1::ConsoleOutput output;
    output.set_lost_bytes(lost);
    output.set_data(Unescaped(parts[1]));
    vm.console().Send(output);
  } else if (words[0] == "refuse") {
    const std::vector<std::string> parts = absl::StrSplit(rest, absl::MaxSplits(' ', 1));
    int code = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &code)) return false;
    vm.Refuse(static_cast<grpc::StatusCode>(code), parts[1]);
  } else if (words[0] == "button") {
    vm.TurnPowerButtonOff();
  } else if (words[0] == "hang") {
    vm.Hang();
  } else {
    if (words[0] != "end") std::cerr << "fake_vm: unknown command: " << line << "\n";
    return false;
  }
  return true;
}

int Run(const std::string& socket, const std::string& scenario_path) {
  std::stringstream text;
  text << std::ifstream(scenario_path).rdbuf();
  Scenario scenario;
  if (!google::protobuf::TextFormat::ParseFromString(text.str(), &scenario)) return 1;
  FakeVm vm(std::move(scenario));
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&vm);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  Tell("ready");
  for (std::string line; std::getline(std::cin, line) && Obey(line, vm);) {
    Tell("obeyed");
  }
  vm.End();
  server->Shutdown(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  return 0;
}

}  // namespace
}  // namespace bulkhead::vmctl

int main(int argc, char** argv) { return argc == 3 ? bulkhead::vmctl::Run(argv[1], argv[2]) : 2; }
