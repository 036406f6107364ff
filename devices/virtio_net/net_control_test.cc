#include "devices/virtio_net/net_control.h"

#include <string.h>

#include <vector>

#include "devices/virtio_net/net_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr MacAddress kOwn = {0x52, 0, 0, 0, 0, 1};
constexpr MacAddress kOther = {0x52, 0, 0, 0, 0, 2};
constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr MacAddress kGroup = {0x01, 0, 0x5e, 0, 0, 1};
constexpr uint16_t kPairs = 4;
constexpr uint64_t kAll = kNetChecksum | kNetGuestChecksum | kNetControlGuestOffloads |
                          kNetGuestTso4 | kNetGuestTso6 | kNetStatus | kNetControlQueue |
                          kNetControlRx | kNetControlVlan | kNetGuestAnnounce | kNetMultiQueue |
                          kNetControlMac;

class NetControlTest : public testing::Test {
 protected:
  NetControlTest() : control(kOwn, kPairs) { control.Begin(kAll); }

  uint8_t Do(uint8_t class_number, uint8_t command, std::vector<uint8_t> data) {
    data.insert(data.begin(), {class_number, command});
    return control.Execute(data);
  }
  bool Accepts(const MacAddress& to) const {
    std::vector<uint8_t> frame(kEthernetHeader + kVlanTag);
    memcpy(frame.data(), to.data(), to.size());
    return control.Accepts(frame);
  }
  bool AcceptsVlan(uint16_t id) const {
    std::vector<uint8_t> frame(kEthernetHeader + kVlanTag);
    memcpy(frame.data(), kOwn.data(), kOwn.size());
    frame[12] = 0x81;
    frame[14] = static_cast<uint8_t>(0xe0 | id >> 8);  // with a priority
    frame[15] = static_cast<uint8_t>(id);
    return control.Accepts(frame);
  }
  static std::vector<uint8_t> Tables(uint32_t unicast, uint32_t multicast) {
    std::vector<uint8_t> data;
    const auto add = [&](uint32_t count, const MacAddress& first) {
      const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(&count);
      data.insert(data.end(), bytes, bytes + sizeof(count));
      for (uint32_t i = 0; i < count; ++i) data.insert(data.end(), first.begin(), first.end());
    };
    add(unicast, kOther);
    add(multicast, kGroup);
    return data;
  }

  NetControl control;
};

TEST_F(NetControlTest, ADriverThatHasSetNothingGetsAll) {
  for (const MacAddress& to : {kOwn, kOther, kBroadcast, kGroup}) EXPECT_TRUE(Accepts(to));
}

TEST_F(NetControlTest, WithoutPromiscuousModeTheTablesDecide) {
  EXPECT_EQ(Do(kControlRx, kRxPromiscuous, {0}), kControlOk);
  EXPECT_TRUE(Accepts(kOwn));
  EXPECT_TRUE(Accepts(kBroadcast));
  EXPECT_FALSE(Accepts(kOther));
  EXPECT_FALSE(Accepts(kGroup));
  EXPECT_EQ(Do(kControlMac, kMacTableSet, Tables(1, 0)), kControlOk);
  EXPECT_TRUE(Accepts(kOther));
  EXPECT_FALSE(Accepts(kGroup));
  EXPECT_EQ(Do(kControlMac, kMacTableSet, Tables(0, 1)), kControlOk);
  EXPECT_FALSE(Accepts(kOther));
  EXPECT_TRUE(Accepts(kGroup));
  EXPECT_EQ(Do(kControlMac, kMacTableSet, Tables(65, 65)), kControlOk);
  EXPECT_TRUE(Accepts(kOther));
  EXPECT_TRUE(Accepts({0x03, 9, 9, 9, 9, 9}));
  EXPECT_EQ(Do(kControlMac, kMacTableSet, Tables(0, 0)), kControlOk);
  EXPECT_EQ(Do(kControlRx, kRxAllMulticast, {1}), kControlOk);
  EXPECT_TRUE(Accepts(kGroup));
  EXPECT_FALSE(Accepts(kOther));
}

TEST_F(NetControlTest, VlansPassOnceTheyAreAdded) {
  EXPECT_EQ(Do(kControlRx, kRxPromiscuous, {0}), kControlOk);
  EXPECT_FALSE(AcceptsVlan(0x234));
  EXPECT_EQ(Do(kControlVlan, kVlanAdd, {0x34, 0x02}), kControlOk);
  EXPECT_TRUE(AcceptsVlan(0x234));
  EXPECT_FALSE(AcceptsVlan(0x235));
  EXPECT_EQ(Do(kControlVlan, kVlanDelete, {0x34, 0x02}), kControlOk);
  EXPECT_FALSE(AcceptsVlan(0x234));
  EXPECT_EQ(Do(kControlVlan, kVlanAdd, {0x00, 0x10}), kControlError);
}

TEST_F(NetControlTest, TheMacAddressChanges) {
  EXPECT_EQ(Do(kControlRx, kRxPromiscuous, {0}), kControlOk);
  EXPECT_EQ(Do(kControlMac, kMacAddressSet, {kOther.begin(), kOther.end()}), kControlOk);
  EXPECT_TRUE(Accepts(kOther));
  EXPECT_FALSE(Accepts(kOwn));
  control.Begin(kAll);
  EXPECT_EQ(control.state().mac, kOwn);
}

TEST_F(NetControlTest, PairsAndOffloadsStayWithinWhatWasNegotiated) {
  EXPECT_EQ(Do(kControlMultiQueue, kPairsSet, {4, 0}), kControlOk);
  EXPECT_EQ(control.state().pairs, 4);
  EXPECT_EQ(Do(kControlMultiQueue, kPairsSet, {5, 0}), kControlError);
  EXPECT_EQ(Do(kControlMultiQueue, kPairsSet, {0, 0}), kControlError);
  EXPECT_EQ(control.state().offloads, kNetGuestChecksum | kNetGuestTso4 | kNetGuestTso6);
  EXPECT_EQ(Do(kControlOffloads, kOffloadsSet, {kNetGuestChecksum, 0, 0, 0, 0, 0, 0, 0}),
            kControlOk);
  EXPECT_EQ(control.state().offloads, kNetGuestChecksum);
  // Segments without checksums are none.
  EXPECT_EQ(Do(kControlOffloads, kOffloadsSet, {kNetGuestTso4, 0, 0, 0, 0, 0, 0, 0}), kControlOk);
  EXPECT_EQ(control.state().offloads, 0u);
  EXPECT_EQ(Do(kControlOffloads, kOffloadsSet, {0xff, 0, 0, 0, 0, 0, 0, 0}), kControlError);
}

TEST_F(NetControlTest, AnAnnouncementLastsUntilTheDriverAcknowledgesIt) {
  EXPECT_TRUE(control.Announce());
  EXPECT_EQ(control.state().announce, 1);
  EXPECT_EQ(Do(kControlAnnounce, kAnnounceAcknowledge, {}), kControlOk);
  EXPECT_EQ(control.state().announce, 0);
  control.SetLink(false);
  EXPECT_FALSE(control.Announce());
}

TEST_F(NetControlTest, WhatWasNotNegotiatedIsRefused) {
  control.Begin(kNetControlQueue);
  EXPECT_EQ(Do(kControlRx, kRxPromiscuous, {0}), kControlError);
  EXPECT_EQ(Do(kControlMac, kMacAddressSet, {1, 2, 3, 4, 5, 6}), kControlError);
  EXPECT_EQ(Do(kControlMac, kMacTableSet, Tables(0, 0)), kControlError);
  EXPECT_EQ(Do(kControlVlan, kVlanAdd, {1, 0}), kControlError);
  EXPECT_EQ(Do(kControlMultiQueue, kPairsSet, {2, 0}), kControlError);
  EXPECT_EQ(Do(kControlOffloads, kOffloadsSet, std::vector<uint8_t>(8)), kControlError);
  EXPECT_EQ(Do(kControlAnnounce, kAnnounceAcknowledge, {}), kControlError);
}

TEST_F(NetControlTest, CommandsOfTheWrongLengthAreRefused) {
  EXPECT_EQ(control.Execute({}), kControlError);
  EXPECT_EQ(Do(kControlRx, kRxPromiscuous, {}), kControlError);
  EXPECT_EQ(Do(kControlRx, kRxPromiscuous, {1, 1}), kControlError);
  EXPECT_EQ(Do(kControlMac, kMacAddressSet, {1, 2, 3, 4, 5}), kControlError);
  std::vector<uint8_t> tables = Tables(2, 2);
  tables.pop_back();
  EXPECT_EQ(Do(kControlMac, kMacTableSet, tables), kControlError);
  EXPECT_EQ(Do(kControlMac, kMacTableSet, {0xff, 0xff, 0xff, 0xff, 1}), kControlError);
  EXPECT_EQ(Do(kControlMultiQueue, kPairsSet, {1}), kControlError);
  EXPECT_EQ(Do(9, 0, {}), kControlError);
}

TEST_F(NetControlTest, OnlyPossibleStateIsRestored) {
  Do(kControlMac, kMacTableSet, Tables(2, 3));
  const NetControl::State saved = control.state();
  NetControl successor(kOwn, kPairs);
  EXPECT_TRUE(successor.Restore(saved, kAll).ok());
  EXPECT_EQ(successor.state().multicast.count, 3);
  const auto refuses = [&](auto change) {
    NetControl::State state = saved;
    change(state);
    return !successor.Restore(state, kAll).ok();
  };
  EXPECT_FALSE(successor.Restore(saved, kAll & ~kNetStatus).ok());
  EXPECT_TRUE(refuses([](NetControl::State& s) { s.pairs = 0; }));
  EXPECT_TRUE(refuses([](NetControl::State& s) { s.pairs = kPairs + 1; }));
  EXPECT_TRUE(refuses([](NetControl::State& s) { s.offloads = kNetHostTso4; }));
  EXPECT_TRUE(refuses([](NetControl::State& s) { s.unicast.count = 65; }));
  EXPECT_TRUE(refuses([](NetControl::State& s) { s.link_up = 2; }));
}

}  // namespace
}  // namespace bulkhead::devices::virtio
