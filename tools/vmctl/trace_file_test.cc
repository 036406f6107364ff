#include "tools/vmctl/trace_file.h"

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/vmctl/testing/trace_check.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Record = v1::TraceRecord;

constexpr uint64_t kBegin = 5'000'000'000'123;  // ns

v1::TraceChunk StartOfTrace() {
  v1::TraceChunk chunk;
  v1::TraceStart& start = *chunk.mutable_start();
  start.set_time_ns(kBegin);
  start.set_name("web");
  start.set_vcpus(2);
  start.set_state(v1::VmStatus::RUNNING);
  for (const char* name : {"disk0", "con\"sole\\\n"}) {
    v1::Device& device = *start.add_devices();
    device.set_name(name);
    device.set_model("virtio-blk");
    device.set_state(v1::Device::RUNNING);
    device.set_pid(77);
    device.set_generation(1);
  }
  start.mutable_devices(0)->mutable_pci();
  return chunk;
}

// Times are nanoseconds since the begin of the trace.
Record& NewRecord(v1::TraceChunk& chunk, Record::Kind kind, uint64_t time_ns, uint32_t device = 0) {
  Record& record = *chunk.add_records();
  record.set_kind(kind);
  record.set_time_ns(kBegin + time_ns);
  record.set_device(device);
  return record;
}

void AddRequest(v1::TraceChunk& chunk, Record::Kind kind, uint64_t time_ns, uint32_t head,
                uint32_t queue = 0) {
  Record& record = NewRecord(chunk, kind, time_ns);
  record.set_head(head);
  record.set_index(queue);
  record.set_readable_bytes(16);
  record.set_writable_bytes(4097);  // a disk's status included
}

v1::Event& AddEvent(v1::TraceChunk& chunk, uint64_t time_ns) {
  v1::TraceEvent& event = *chunk.add_events();
  event.set_time_ns(kBegin + time_ns);
  return *event.mutable_event();
}

class TraceFileTest : public testing::Test {
 protected:
  TraceFileTest() { EXPECT_TRUE(file_.Add(StartOfTrace())); }

  void Add(v1::TraceChunk& chunk, uint64_t complete_until) {
    chunk.set_complete_until_ns(kBegin + complete_until);
    EXPECT_TRUE(file_.Add(chunk));
    chunk.Clear();
  }

  CheckedTrace Finish() {
    EXPECT_TRUE(file_.Finish());
    const std::string path = absl::StrCat(testing::TempDir(), "/trace.json");
    std::ofstream(path) << text_;
    CheckedTrace trace = CheckTrace(path);
    EXPECT_THAT(trace.errors, IsEmpty()) << text_;
    return trace;
  }

  std::string text_;
  TraceFile file_{[this](absl::string_view text) {
    absl::StrAppend(&text_, text);
    return true;
  }};
};

std::vector<std::string> Times(const std::vector<CheckedTrace::Event>& events) {
  std::vector<std::string> times;
  for (const CheckedTrace::Event& event : events) {
    times.push_back(absl::StrCat(event.track, ": ", event.begin_ns, "-", event.end_ns,
                                 event.unfinished ? " unfinished" : ""));
  }
  return times;
}

TEST_F(TraceFileTest, AccessIsASpanOfItsVcpu) {
  v1::TraceChunk chunk;
  Record& record = NewRecord(chunk, Record::READ, 1234);
  record.set_duration_ns(5678);
  record.set_vcpu(1);
  record.set_region(1);
  record.set_offset(0x14);
  record.set_size_bytes(4);
  Add(chunk, 1'000'000);
  const CheckedTrace trace = Finish();
  const auto accesses = trace.Find("VM web", "access");
  EXPECT_THAT(Times(accesses), ElementsAre("vCPU 1: 1234-6912"));
  EXPECT_EQ(accesses.at(0).name, "disk0 read 4 bytes at bar1+0x14");
  EXPECT_EQ(file_.totals().at(0).accesses, 1u);
}

TEST_F(TraceFileTest, DoorbellsAndInterruptsAreInstants) {
  v1::TraceChunk chunk;
  NewRecord(chunk, Record::DOORBELL, 10).set_index(3);
  NewRecord(chunk, Record::MSIX, 20).set_index(2);
  NewRecord(chunk, Record::LINE, 30, /*device=*/1);
  Add(chunk, 1000);
  const CheckedTrace trace = Finish();
  EXPECT_THAT(Times(trace.Find("disk0", "doorbell", "doorbell 3")),
              ElementsAre("doorbells: 10-10"));
  EXPECT_THAT(Times(trace.Find("disk0", "interrupt", "vector 2")),
              ElementsAre("interrupts: 20-20"));
  EXPECT_THAT(Times(trace.Find("con\"sole\\", "interrupt")), ElementsAre("interrupts: 30-30"));
}

TEST_F(TraceFileTest, ARequestsNameSaysWhichWayItsDataGoes) {
  v1::TraceChunk chunk;
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/5);
  AddRequest(chunk, Record::REQUEST_TAKEN, 20, /*head=*/6);
  chunk.mutable_records(1)->set_readable_bytes(8208);
  chunk.mutable_records(1)->set_writable_bytes(1);
  AddRequest(chunk, Record::REQUEST_COMPLETED, 30, /*head=*/5);
  chunk.mutable_records(2)->set_written_bytes(4097);
  Add(chunk, 100);
  const CheckedTrace trace = Finish();
  EXPECT_THAT(Times(trace.Find("disk0", "request", "read 4 KiB")), ElementsAre("queue 0: 10-30"));
  EXPECT_THAT(Times(trace.Find("disk0", "request", "write 8 KiB, unfinished")),
              ElementsAre("queue 0 (2): 20-100 unfinished"));
  EXPECT_THAT(text_, HasSubstr("{\"head\":5,\"readable_bytes\":16,\"writable_bytes\":4097,"
                               "\"written_bytes\":4097}"));
}

TEST_F(TraceFileTest, RequestsInFlightTogetherHaveATrackEach) {
  v1::TraceChunk chunk;
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/5);
  AddRequest(chunk, Record::REQUEST_TAKEN, 20, /*head=*/6);
  AddRequest(chunk, Record::REQUEST_COMPLETED, 30, /*head=*/5);
  AddRequest(chunk, Record::REQUEST_TAKEN, 30, /*head=*/7);
  Add(chunk, 35);
  AddRequest(chunk, Record::REQUEST_COMPLETED, 40, /*head=*/7);
  AddRequest(chunk, Record::REQUEST_COMPLETED, 50, /*head=*/6);
  Add(chunk, 1000);
  EXPECT_THAT(Times(Finish().Find("disk0", "request")),
              ElementsAre("queue 0: 10-30", "queue 0: 30-40", "queue 0 (2): 20-50"));
  const TraceFile::Totals totals = file_.totals().at(0);
  EXPECT_EQ(totals.requests, 3u);
  EXPECT_EQ(totals.request_ns, 60u);
  EXPECT_EQ(totals.longest_request_ns, 30u);
}

// A viewer sorts tracks of one place by name: "queue 0 (10)" before "queue 0 (2)".
TEST_F(TraceFileTest, EachTrackOfAQueueHasItsOwnPlace) {
  v1::TraceChunk chunk;
  for (uint32_t head = 0; head < 12; ++head) {
    AddRequest(chunk, Record::REQUEST_TAKEN, 10, head);
  }
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/0, /*queue=*/1);
  Add(chunk, 100);
  Finish();
  for (const uint64_t place : {10, 11, 19, 20, 21, 10 + 65536}) {
    EXPECT_THAT(text_, HasSubstr(absl::StrCat("\"sort_index\":", place, "}")));
  }
}

// A network's driver gives it 256 empty buffers: these are no requests that take long.
TEST_F(TraceFileTest, ABufferThatWaitsForAFrameIsNoRequest) {
  v1::TraceChunk start = StartOfTrace();
  start.mutable_start()->mutable_devices(0)->set_model("virtio-net");
  text_.clear();
  TraceFile file([this](absl::string_view text) {
    absl::StrAppend(&text_, text);
    return true;
  });
  EXPECT_TRUE(file.Add(start));
  v1::TraceChunk chunk;
  for (uint32_t head = 0; head < 256; ++head) {
    AddRequest(chunk, Record::REQUEST_TAKEN, 10, head);
    chunk.mutable_records(static_cast<int>(head))->set_readable_bytes(0);
  }
  AddRequest(chunk, Record::REQUEST_COMPLETED, 20, /*head=*/7);
  chunk.mutable_records(256)->set_written_bytes(110);
  AddRequest(chunk, Record::REQUEST_COMPLETED, 30, /*head=*/300);  // given before the trace
  AddRequest(chunk, Record::REQUEST_TAKEN, 40, /*head=*/8);        // the control queue's
  chunk.set_complete_until_ns(kBegin + 100);
  EXPECT_TRUE(file.Add(chunk));
  EXPECT_TRUE(file.Finish());
  const std::string path = absl::StrCat(testing::TempDir(), "/network.json");
  std::ofstream(path) << text_;
  const CheckedTrace trace = CheckTrace(path);
  EXPECT_THAT(trace.errors, IsEmpty()) << text_;
  EXPECT_THAT(Times(trace.Find("disk0", "received")),
              ElementsAre("queue 0: 20-20", "queue 0: 30-30"));
  EXPECT_EQ(trace.Find("disk0", "received").at(0).name, "110 bytes from the device");
  EXPECT_THAT(Times(trace.Find("disk0", "request")), ElementsAre("queue 0: 40-100 unfinished"));
  EXPECT_EQ(file.totals().at(0).requests, 0u);
}

TEST_F(TraceFileTest, DeathOfAProcessEndsItsRequestsAndItsSuccessorBeginsThemAgain) {
  v1::TraceChunk chunk;
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/5);
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/5, /*queue=*/1);
  // Later than what the successor does, and before it in time.
  AddRequest(chunk, Record::REQUEST_TAKEN, 60, /*head=*/5);
  AddRequest(chunk, Record::REQUEST_COMPLETED, 70, /*head=*/5);
  v1::DeviceProcessEnded& ended = *AddEvent(chunk, 50).mutable_device_ended();
  ended.set_device("disk0");
  ended.set_reason("killed by signal 9 (Killed)");
  for (const auto& [time, state] :
       {std::pair(50, v1::Device::RESTARTING), std::pair(55, v1::Device::RUNNING)}) {
    v1::DeviceStateChanged& change = *AddEvent(chunk, time).mutable_device_state();
    change.set_device("disk0");
    change.set_to(state);
    change.set_pid(state == v1::Device::RUNNING ? 78 : 0);
    change.set_generation(2);
  }
  Add(chunk, 1000);
  const CheckedTrace trace = Finish();
  EXPECT_THAT(
      Times(trace.Find("disk0", "request")),
      ElementsAre("queue 0: 10-50 unfinished", "queue 0: 60-70", "queue 1: 10-50 unfinished"));
  EXPECT_THAT(Times(trace.Find("disk0", "state", "RUNNING, pid 77, generation 1")),
              ElementsAre("process: 0-50"));
  EXPECT_THAT(Times(trace.Find("disk0", "state", "RESTARTING")), ElementsAre("process: 50-55"));
  EXPECT_THAT(Times(trace.Find("disk0", "state", "RUNNING, pid 78, generation 2")),
              ElementsAre("process: 55-1000"));
  EXPECT_THAT(trace.Find("disk0", "event", "process "), SizeIs(1));
  EXPECT_EQ(file_.totals().at(0).ends, 1u);
}

TEST_F(TraceFileTest, ResetEndsTheRequestsOfItsDevice) {
  v1::TraceChunk chunk;
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/5);
  AddEvent(chunk, 30).mutable_device_reset()->set_device("con\"sole\\\n");
  AddEvent(chunk, 50).mutable_device_reset()->set_device("disk0");
  Add(chunk, 100);
  EXPECT_THAT(Times(Finish().Find("disk0", "request")), ElementsAre("queue 0: 10-50 unfinished"));
}

TEST_F(TraceFileTest, WhatHasNotEndedHasASpanUpToTheEndOfTheTrace) {
  v1::TraceChunk chunk;
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/5);
  v1::VmStateChanged& paused = *AddEvent(chunk, 40).mutable_vm_state();
  paused.set_state(v1::VmStatus::PAUSED);
  paused.set_reason("device 'disk0' is away");
  Add(chunk, 90);
  const CheckedTrace trace = Finish();
  EXPECT_THAT(Times(trace.Find("disk0", "request")), ElementsAre("queue 0: 10-90 unfinished"));
  EXPECT_THAT(Times(trace.Find("VM web", "state")), ElementsAre("state: 0-40", "state: 40-90"));
  EXPECT_THAT(trace.Find("VM web", "state", "PAUSED: device 'disk0' is away"), SizeIs(1));
}

TEST_F(TraceFileTest, WhatCannotBelongTogetherMakesNoBrokenFile) {
  v1::TraceChunk chunk;
  AddRequest(chunk, Record::REQUEST_COMPLETED, 5, /*head=*/9);  // began before the trace
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/5);
  AddRequest(chunk, Record::REQUEST_TAKEN, 20, /*head=*/5);  // its completion was lost
  AddEvent(chunk, 30).mutable_device_ended()->set_device("disk0");
  Add(chunk, 50);
  AddRequest(chunk, Record::REQUEST_TAKEN, 25, /*head=*/6);  // written late
  AddRequest(chunk, Record::REQUEST_COMPLETED, 60, /*head=*/6);
  NewRecord(chunk, Record::DOORBELL, 60, /*device=*/2);  // no such device
  NewRecord(chunk, Record::READ, 60).set_vcpu(2);        // no such vCPU
  Add(chunk, 100);
  EXPECT_THAT(
      Times(Finish().Find("disk0", "request")),
      ElementsAre("queue 0: 10-20 unfinished", "queue 0: 20-30 unfinished", "queue 0: 30-60"));
}

TEST_F(TraceFileTest, ColoursSayWhatIsNotAsItShouldBe) {
  v1::TraceChunk chunk;
  AddRequest(chunk, Record::REQUEST_TAKEN, 10, /*head=*/5);
  AddRequest(chunk, Record::REQUEST_COMPLETED, 20, /*head=*/5);
  AddRequest(chunk, Record::REQUEST_TAKEN, 30, /*head=*/5);
  AddEvent(chunk, 40).mutable_vm_state()->set_state(v1::VmStatus::PAUSED);
  v1::DeviceStateChanged& change = *AddEvent(chunk, 50).mutable_device_state();
  change.set_device("disk0");
  change.set_to(v1::Device::FAILED);
  Add(chunk, 100);
  const CheckedTrace trace = Finish();
  const auto color_of = [&](const std::string& process, const std::string& name) {
    const auto spans = trace.Find(process, "", name);
    return spans.size() == 1 ? spans[0].color : "no such span";
  };
  EXPECT_EQ(color_of("VM web", "RUNNING"), "thread_state_running");
  EXPECT_EQ(color_of("VM web", "PAUSED"), "thread_state_iowait");
  EXPECT_EQ(color_of("disk0", "RUNNING"), "thread_state_running");
  EXPECT_EQ(color_of("disk0", "FAILED"), "terrible");
  EXPECT_EQ(color_of("disk0", "read 4 KiB, unfinished"), "thread_state_iowait");
  EXPECT_EQ(trace.Find("disk0", "request", "read 4 KiB").at(0).color, "");
}

TEST_F(TraceFileTest, LostRecordsAreCounted) {
  v1::TraceChunk chunk;
  chunk.set_lost(3);
  Add(chunk, 100);
  chunk.set_lost(4);
  Add(chunk, 200);
  Finish();
  EXPECT_EQ(file_.lost(), 7u);
  EXPECT_THAT(text_, HasSubstr("\"lost_records\":\"7\""));
}

TEST(TraceFileLimitTest, AFullFileIsWholeAndNoLongerThanItMayBe) {
  std::string text;
  TraceFile file(
      [&](absl::string_view piece) {
        absl::StrAppend(&text, piece);
        return true;
      },
      /*max_bytes=*/20'000);
  EXPECT_TRUE(file.Add(StartOfTrace()));
  uint64_t time = 0;
  bool taken = true;
  while (taken && time < 100'000) {
    v1::TraceChunk chunk;
    for (uint32_t head = 0; head < 10; ++head) {
      AddRequest(chunk, Record::REQUEST_TAKEN, ++time, head);
    }
    chunk.set_complete_until_ns(kBegin + time);
    taken = file.Add(chunk);
  }
  EXPECT_FALSE(taken);
  EXPECT_TRUE(file.full());
  EXPECT_TRUE(file.Finish());
  EXPECT_LE(text.size(), 20'000u);
  EXPECT_GE(text.size(), 19'000u);
  EXPECT_EQ(file.bytes(), text.size());
  const std::string path = absl::StrCat(testing::TempDir(), "/full.json");
  std::ofstream(path) << text;
  EXPECT_THAT(CheckTrace(path).errors, IsEmpty());
}

TEST(TraceFileLimitTest, AFailedWriteEndsIt) {
  TraceFile file([](absl::string_view) { return false; });
  file.Add(StartOfTrace());
  EXPECT_FALSE(file.Finish());
}

}  // namespace
}  // namespace bulkhead::vmctl
