#include "base/standard_descriptors.h"

#include <fcntl.h>
#include <unistd.h>

namespace bulkhead {
namespace {

bool IsClosed(int fd) { return fcntl(fd, F_GETFD) < 0; }

}  // namespace

void OpenStandardDescriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (!IsClosed(fd)) continue;
    // The lowest free number is this one: those below are open by now. Not close-on-exec, as with
    // standard streams in general.
    int opened = open("/dev/null", O_RDWR | O_NOCTTY);
    // Without /dev: the number is taken all the same, by what can be neither read nor written.
    if (opened < 0) opened = open("/", O_PATH);
    if (opened != fd) _exit(1);
  }
}

}  // namespace bulkhead
