#ifndef BULKHEAD_VMM_BACK_END_CONNECTION_KEEPER_H_
#define BULKHEAD_VMM_BACK_END_CONNECTION_KEEPER_H_

namespace bulkhead::vmm {

// Stands between a device's process and a back end that ends with its connection, as virtiofsd
// does, and with it all that the back end knows of the guest's files: passes the messages of
// vhost-user on, with their descriptors. When the device's process ends, the back end sees nothing
// but that its queues are stopped, which it does once it has completed all that it had taken; then
// the successor's connection is accepted.
//
// Requests of the device pass unchanged. Of the replies one does: the back end does not offer
// configurable memory slots, so that each connection replaces the table of memory instead of adding
// to that of the last one.
//
// `listener`: where the device's connections arrive; they name this process as their peer from now
// on. `back_end`: the connection to the back end. Returns when that ends. Neither side is trusted:
// what breaks the protocol costs the device its connection.
void KeepConnection(int listener, int back_end);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BACK_END_CONNECTION_KEEPER_H_
