#include "vmm/config/tap_queues.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#include <vector>

#include "base/unique_fd.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kLongestAnswer = 64 * 1024;

// The attribute of that type among those that fill [first, first + bytes); nullptr: none.
const rtattr* Find(const rtattr* first, size_t bytes, uint16_t type) {
  int left = static_cast<int>(bytes);
  for (const rtattr* a = first; RTA_OK(a, left); a = RTA_NEXT(a, left)) {
    if ((a->rta_type & NLA_TYPE_MASK) == type) return a;
  }
  return nullptr;
}

const rtattr* FindIn(const rtattr* nest, uint16_t type) {
  if (nest == nullptr) return nullptr;
  return Find(static_cast<const rtattr*>(RTA_DATA(nest)), RTA_PAYLOAD(nest), type);
}

std::optional<uint32_t> NumberIn(const rtattr* nest, uint16_t type) {
  const rtattr* const attribute = FindIn(nest, type);
  uint32_t number = 0;
  if (attribute == nullptr || RTA_PAYLOAD(attribute) < sizeof(number)) return std::nullopt;
  memcpy(&number, RTA_DATA(attribute), sizeof(number));
  return number;
}

}  // namespace

std::optional<uint32_t> CountTapQueues(const std::string& name) {
  const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request = {};
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.link.ifi_index = static_cast<int>(if_nametoindex(name.c_str()));
  if (send(socket.get(), &request, sizeof(request), 0) != sizeof(request)) return std::nullopt;
  std::vector<char> answer(kLongestAnswer);
  ssize_t size;
  do {
    size = recv(socket.get(), answer.data(), answer.size(), 0);
  } while (size < 0 && errno == EINTR);
  const auto* const header = reinterpret_cast<const nlmsghdr*>(answer.data());
  if (size < 0 || !NLMSG_OK(header, static_cast<uint32_t>(size)) ||
      header->nlmsg_type != RTM_NEWLINK || header->nlmsg_len < NLMSG_LENGTH(sizeof(ifinfomsg))) {
    return std::nullopt;
  }
  const auto* const link = static_cast<const ifinfomsg*>(NLMSG_DATA(header));
  const rtattr* const info =
      Find(IFLA_RTA(link), header->nlmsg_len - NLMSG_LENGTH(sizeof(ifinfomsg)), IFLA_LINKINFO);
  const rtattr* const data = FindIn(info, IFLA_INFO_DATA);
  const std::optional<uint32_t> enabled = NumberIn(data, IFLA_TUN_NUM_QUEUES);
  const std::optional<uint32_t> disabled = NumberIn(data, IFLA_TUN_NUM_DISABLED_QUEUES);
  if (!enabled.has_value()) return std::nullopt;
  return *enabled + disabled.value_or(0);
}

}  // namespace bulkhead::vmm
