#ifndef BULKHEAD_BASE_STANDARD_DESCRIPTORS_H_
#define BULKHEAD_BASE_STANDARD_DESCRIPTORS_H_

namespace bulkhead {

// Opens /dev/null for each of the descriptors 0, 1 and 2 that is closed. Else the next files that
// this process opens would get these numbers, and its output would go into them: a log into a
// guest's disk. Every main() calls this first. Ends the process if it fails.
void OpenStandardDescriptors();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_STANDARD_DESCRIPTORS_H_
