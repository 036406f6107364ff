#include "kernel_images/baremetal/lib/samples.h"

namespace bulkhead::guest {

uint64_t samples[kMaxSamples];

namespace {

void SiftDown(uint32_t root, uint32_t count) {
  while (2 * root + 1 < count) {
    uint32_t child = 2 * root + 1;
    if (child + 1 < count && samples[child] < samples[child + 1]) ++child;
    if (samples[root] >= samples[child]) return;
    const uint64_t swapped = samples[root];
    samples[root] = samples[child];
    samples[child] = swapped;
    root = child;
  }
}

}  // namespace

void SortSamples(uint32_t count) {
  for (uint32_t root = count / 2; root-- > 0;) SiftDown(root, count);
  for (uint32_t end = count; end-- > 1;) {
    const uint64_t largest = samples[0];
    samples[0] = samples[end];
    samples[end] = largest;
    SiftDown(0, end);
  }
}

}  // namespace bulkhead::guest
