#ifndef BULKHEAD_VMM_CONFIG_VALIDATOR_H_
#define BULKHEAD_VMM_CONFIG_VALIDATOR_H_

#include <stdint.h>

#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/program_file.h"
#include "vmm/config/program_folders.h"
#include "vmm/config/validate.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// `path` as an absolute path, for messages. "" stays "".
std::string AbsolutePath(const std::string& path);

// Does the work of ValidateConfig(). Its errors name the place of the field. validate_device.cc has
// what belongs to devices.
class Validator {
 public:
  Validator(const FieldPlaces& places, const HostLimits& host) : places_(places), host_(host) {}

  absl::StatusOr<VmSpec> Validate(const v1::VmConfig& config);

 private:
  // "vm.textproto:7: devices[1].name: <problem>", or "--cpus: <problem>".
  absl::Status Error(const std::string& field, absl::string_view problem) const;

  absl::Status CheckName(const std::string& field, const std::string& name) const;
  absl::StatusOr<std::string> SocketPath(const std::string& field, const std::string& path) const;
  absl::Status Sockets(const v1::VmConfig& config, VmSpec& spec) const;
  absl::Status Sandbox(const v1::Sandbox& sandbox, VmSpec& spec) const;
  absl::StatusOr<uint64_t> Size(const std::string& field, const std::string& text) const;
  absl::StatusOr<uint64_t> Memory(const std::string& text) const;
  absl::Status MemoryBacking(const v1::MemoryBacking& config, VmSpec& spec) const;
  absl::StatusOr<UniqueFd> OpenBootFile(const std::string& field, const std::string& path) const;
  absl::Status Kernel(const v1::Kernel& kernel, VmSpec& spec) const;
  absl::Status DiskBoot(const v1::Kernel& kernel, VmSpec& spec) const;
  absl::Status FileError(const std::string& field, const absl::Status& status) const;
  absl::Status BinaryFolders(const v1::VmConfig& config);
  absl::StatusOr<ProgramFile> FindBinary(const std::string& field, const std::string& name) const;
  absl::StatusOr<CgroupLimits> Cgroup(const std::string& field,
                                      const v1::CgroupConfig& config) const;
  // Two file systems of one tag could not be told apart by the guest.
  absl::Status CheckTags(const std::string& field, const v1::DeviceConfig& config);
  absl::StatusOr<DeviceSpec> Device(const std::string& field, const v1::DeviceConfig& config);
  // Adds the device whose disk is for cloud-init.
  absl::Status AddCloudInit(const v1::CloudInit& config, VmSpec& spec);
  absl::StatusOr<ResourceSpec> Resource(const std::string& field, const v1::ResourceConfig& config);
  absl::StatusOr<std::shared_ptr<const BackEndSpec>> BackEnd(const std::string& field,
                                                             const v1::BackEnd& config);
  absl::Status AddTap(const std::string& field, const v1::ResourceConfig& config, DeviceSpec& spec);
  absl::Status AddUserNetwork(const std::string& field, const v1::ResourceConfig& config,
                              DeviceSpec& spec);
  absl::Status StandardStreams(const std::string& field);
  absl::StatusOr<ConsoleLogFile> Log(const std::string& field, const v1::ConsoleLog& config);
  absl::StatusOr<std::shared_ptr<BalloonSwitch>> Balloon(const std::string& field,
                                                         const v1::BalloonResource& config);

  const FieldPlaces& places_;
  const HostLimits& host_;
  std::string vm_name_;  // "": none was given
  std::shared_ptr<const ProgramFolders> binary_folders_;
  std::set<std::string> device_names_;
  std::set<uint32_t> pci_slots_;
  uint64_t memory_bytes_ = 0;
  std::set<std::string> tags_;  // of file systems
  bool has_vsock_ = false;
  std::string balloon_;                // the field path of the VM's
  std::string standard_streams_user_;  // field path of the console that has them
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_VALIDATOR_H_
