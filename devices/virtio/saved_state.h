#ifndef BULKHEAD_DEVICES_VIRTIO_SAVED_STATE_H_
#define BULKHEAD_DEVICES_VIRTIO_SAVED_STATE_H_

#include <stdint.h>

#include <type_traits>

namespace bulkhead::devices::virtio {

// What PciTransport::Save() writes: a SavedDevice, a SavedQueue for each queue, and what the
// device type adds. From process to process on one machine, so in its byte order. Any change of
// meaning changes kSavedStateVersion. A reader trusts none of it.
//
// Not in it: the queues' indices and what is in flight. Those change with every request and live
// in durable memory (in_flight_log.h).

inline constexpr uint32_t kSavedStateVersion = 2;

struct SavedDevice {
  uint64_t driver_features;
  uint32_t device_feature_select;
  uint32_t driver_feature_select;
  uint16_t queue_count;
  uint16_t queue_select;
  uint16_t config_vector;
  uint8_t status;
  uint8_t resetting;  // 1: the driver has written 0 to the status, which does not read 0 yet
  uint8_t isr;
  uint8_t window[18];  // the body of the PCI_CFG capability
  uint8_t config_generation;
  uint8_t config_interrupt_owed;  // 1: the driver could not be interrupted yet
  uint8_t reserved[3];
};

enum class SavedQueueState : uint8_t { kDisabled, kEnabled, kStopping };

struct SavedQueue {
  uint64_t descriptor_table;
  uint64_t driver_area;
  uint64_t device_area;
  uint32_t epoch;  // of the InFlightLog, which belongs to this enabling of the queue
  uint16_t size;
  uint16_t vector;
  SavedQueueState state;
  uint8_t was_reset;  // 1: by itself, after DRIVER_OK
  uint8_t reserved[6];
};

static_assert(std::has_unique_object_representations_v<SavedDevice>);
static_assert(std::has_unique_object_representations_v<SavedQueue>);
static_assert(sizeof(SavedDevice) == 48 && sizeof(SavedQueue) == 40);

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_SAVED_STATE_H_
