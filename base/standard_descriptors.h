#ifndef BULKHEAD_BASE_STANDARD_DESCRIPTORS_H_
#define BULKHEAD_BASE_STANDARD_DESCRIPTORS_H_

namespace bulkhead {

// Opens /dev/null as those of the descriptors 0, 1 and 2 that are closed. Without it the next files
// that this process opens get these numbers, and what it prints goes into them: a log into a
// guest's disk. The first thing that main() does, in every program. Ends the process if it cannot.
void OpenStandardDescriptors();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_STANDARD_DESCRIPTORS_H_
