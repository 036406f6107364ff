#include "vmm/config/cloud_init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "vmm/config/host_file.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxHostnameBytes = 253;
constexpr size_t kMaxLabelBytes = 63;
constexpr size_t kMaxSshKeys = 100;
// Without instructions; an empty file would be a warning of cloud-init's.
constexpr char kNoUserData[] = "#cloud-config\n{}\n";
constexpr absl::string_view kSshKeyTypes[] = {
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
};

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenHostFile(path, O_RDONLY, /*regular_only=*/true));
  std::string bytes(kMaxFileBytes + 1, '\0');
  size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t n = read(fd.get(), bytes.data() + size, bytes.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoToStatus(errno, absl::StrCat("cannot read \"", path, "\""));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  bytes.resize(size);
  if (bytes.empty()) return absl::InvalidArgumentError(absl::StrCat("\"", path, "\" is empty"));
  if (size <= kMaxFileBytes) return bytes;
  return absl::InvalidArgumentError(
      absl::StrCat("\"", path, "\" is too large: more than ", kMaxFileBytes >> 10, " KiB"));
}

// By its first bytes cloud-init knows what user-data is. What it does not know it ignores, with a
// line in a log of the guest's.
bool LooksLikeUserData(absl::string_view bytes) {
  return absl::StartsWith(bytes, "#") || absl::StartsWith(bytes, "\x1f\x8b") ||
         absl::StartsWithIgnoreCase(bytes, "content-type:") ||
         absl::StartsWithIgnoreCase(bytes, "mime-version:");
}

bool IsPlainText(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

// A string of JSON, and so of YAML. `text` is plain.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}}), "\"");
}

// Whether `blob` is of the format that RFC 4253, section 6.6, has for keys of `type`: the type
// comes first, behind its length.
bool IsKeyOfType(absl::string_view blob, absl::string_view type) {
  constexpr size_t kLengthBytes = 4;
  const char length[kLengthBytes] = {0, 0, 0, static_cast<char>(type.size())};
  return blob.size() > kLengthBytes + type.size() &&
         absl::ConsumePrefix(&blob, absl::string_view(length, kLengthBytes)) &&
         absl::StartsWith(blob, type);
}

absl::StatusOr<std::string> ParseSshKey(absl::string_view line, int number) {
  const auto problem = [number](auto... what) {
    return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", what...));
  };
  const std::vector<absl::string_view> words =
      absl::StrSplit(line, absl::MaxSplits(absl::ByAnyChar(" \t"), 2));
  const absl::string_view type = words[0];
  if (std::find(std::begin(kSshKeyTypes), std::end(kSshKeyTypes), type) == std::end(kSshKeyTypes)) {
    return problem("is not a public key; a line is \"TYPE BASE64 COMMENT\", its type one of ",
                   absl::StrJoin(kSshKeyTypes, ", "));
  }
  std::string blob;
  // Base64Unescape() would skip white space.
  if (words.size() < 2 || !IsPlainText(words[1]) || !absl::Base64Unescape(words[1], &blob) ||
      !IsKeyOfType(blob, type)) {
    return problem("is not a whole key of the type ", type);
  }
  const absl::string_view comment = words.size() < 3 ? "" : absl::StripAsciiWhitespace(words[2]);
  return absl::StrCat(type, " ", words[1],
                      comment.empty() || !IsPlainText(comment) ? "" : absl::StrCat(" ", comment));
}

// So that an instance stays the same over restarts of its VM, and is another one when it is to be
// set up otherwise.
std::string InstanceId(const CloudInitFiles& files, absl::string_view vm_name) {
  uLong sum = crc32(0, nullptr, 0);
  const absl::string_view parts[] = {files.user_data, files.meta_data, files.network_config,
                                     vm_name};
  for (const absl::string_view part : parts) {
    const uint64_t size = part.size();  // so that no byte can change from one part to the next
    sum = crc32(sum, reinterpret_cast<const Bytef*>(&size), sizeof(size));
    sum = crc32(sum, reinterpret_cast<const Bytef*>(part.data()), static_cast<uInt>(size));
  }
  return absl::StrCat("iid-bulkhead-", absl::Hex(sum, absl::kZeroPad8));
}

}  // namespace

bool HasCloudInit(const v1::CloudInit& config) {
  return !config.user_data().empty() || !config.meta_data().empty() ||
         !config.network_config().empty() || config.ssh_key_size() != 0 ||
         !config.hostname().empty();
}

std::string ProblemOfHostname(absl::string_view name) {
  bool good = name.size() <= kMaxHostnameBytes;
  for (const absl::string_view label : absl::StrSplit(name, '.')) {
    good = good && !label.empty() && label.size() <= kMaxLabelBytes && label.front() != '-' &&
           label.back() != '-' && std::all_of(label.begin(), label.end(), [](char c) {
             return c == '-' || absl::ascii_isalnum(static_cast<unsigned char>(c));
           });
  }
  if (good) return "";
  return absl::StrCat("\"", absl::CHexEscape(name.substr(0, kMaxHostnameBytes)),
                      "\" is not a host's name: use letters, digits and '-', at most ",
                      kMaxLabelBytes, " of them between dots, no '-' first or last");
}

absl::StatusOr<std::vector<std::string>> ParseSshKeys(absl::string_view text) {
  if (absl::StrContains(text, "PRIVATE KEY-----")) {
    return absl::InvalidArgumentError(
        "is a private key, which nobody else may have; give the public one, whose name ends in "
        ".pub");
  }
  std::vector<std::string> keys;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    ASSIGN_OR_RETURN(std::string key, ParseSshKey(line, number));
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return absl::InvalidArgumentError("contains no key");
  if (keys.size() <= kMaxSshKeys) return keys;
  return absl::InvalidArgumentError(
      absl::StrCat("contains ", keys.size(), " keys (at most ", kMaxSshKeys, ")"));
}

absl::StatusOr<CloudInitFiles> ReadCloudInit(const v1::CloudInit& config,
                                             const std::string& vm_name, std::string& part) {
  CloudInitFiles files = {.user_data = kNoUserData, .meta_data = "", .network_config = ""};
  if (!config.user_data().empty()) {
    part = "user_data";
    ASSIGN_OR_RETURN(files.user_data, ReadSmallFile(config.user_data()));
    if (!LooksLikeUserData(files.user_data)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", config.user_data(),
                       "\": cloud-init would ignore it; its first line must say what it is, as "
                       "\"#cloud-config\" "
                       "or \"#!/bin/sh\" do"));
    }
  }
  if (!config.network_config().empty()) {
    part = "network_config";
    ASSIGN_OR_RETURN(files.network_config, ReadSmallFile(config.network_config()));
  }
  std::vector<std::string> keys;
  for (int i = 0; i < config.ssh_key_size(); ++i) {
    part = absl::StrCat("ssh_key[", i, "]");
    ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(config.ssh_key(i)));
    absl::StatusOr<std::vector<std::string>> more = ParseSshKeys(text);
    if (!more.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", config.ssh_key(i), "\" ", more.status().message()));
    }
    for (const std::string& key : *more) keys.push_back(Quoted(key));
  }
  part = "hostname";
  if (!config.hostname().empty()) {
    const std::string problem = ProblemOfHostname(config.hostname());
    if (!problem.empty()) return absl::InvalidArgumentError(problem);
  }
  if (!config.meta_data().empty()) {
    constexpr char kTwice[] = "is given with meta-data; say it there, as ";
    if (!config.hostname().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(kTwice, "local-hostname"));
    }
    part = "ssh_key[0]";
    if (!keys.empty()) return absl::InvalidArgumentError(absl::StrCat(kTwice, "public-keys"));
    part = "meta_data";
    ASSIGN_OR_RETURN(files.meta_data, ReadSmallFile(config.meta_data()));
    return files;
  }
  if (!config.hostname().empty()) {
    absl::StrAppend(&files.meta_data, "local-hostname: ", Quoted(config.hostname()), "\n");
  }
  if (!keys.empty()) {
    absl::StrAppend(&files.meta_data, "public-keys:\n- ", absl::StrJoin(keys, "\n- "), "\n");
  }
  files.meta_data =
      absl::StrCat("instance-id: ", InstanceId(files, vm_name), "\n", files.meta_data);
  return files;
}

}  // namespace bulkhead::vmm
