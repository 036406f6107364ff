#ifndef BULKHEAD_INTEGRATION_STORM_EVERYTHING_H_
#define BULKHEAD_INTEGRATION_STORM_EVERYTHING_H_

#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "integration/storm/disturber.h"

// What the storms over all devices at once share.
namespace bulkhead::integration {

// Their flags: how many processes to hit, and from which random moments.
uint64_t EverythingKills();
uint64_t EverythingSeed();

// What a storm has done and found.
struct EverythingReport {
  std::vector<DisturbedPart> parts;
  std::vector<std::pair<std::string, uint64_t>> figures;  // "frames repeated", 3
  absl::Duration duration;

  // Prints a table, or with --json one line of JSON.
  void Print() const;
};

// Each is one `devices` of a configuration, of which a hang is noticed after four seconds and no
// number of ends is too many. `rest`: arg and resources.
std::string StormDevice(absl::string_view name, absl::string_view binary, absl::string_view rest);
std::string StormConsole();
// A qcow2 image that qemu-storage-daemon serves.
std::string StormQcowDisk(absl::string_view name, const std::string& image);

// A folder that virtiofsd serves, by that tag.
std::string StormShare(absl::string_view name, const std::string& folder, absl::string_view tag);

// Makes a sparse file.
void MakeFile(const std::string& path, uint64_t bytes);
// An empty qcow2 image. Fails the test if it cannot.
void MakeQcow(const std::string& path, uint64_t bytes);
// What a qcow2 image holds, as a raw file. Fails the test if it cannot.
void ReadQcow(const std::string& image, const std::string& raw);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_STORM_EVERYTHING_H_
