#include "devices/host/shortage.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <exception>
#include <new>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "proto/contract.h"

namespace bulkhead::devices {
namespace {

// gRPC opens 6 for its server and one connection.
constexpr int kOpenFiles = 12;

// relaxed: nothing else is published with it.
std::atomic<bool> threads_are_needed{false};
std::terminate_handler terminate_otherwise = nullptr;

bool IsShortage(const std::error_code& error) {
  return error == std::errc::resource_unavailable_try_again ||
         error == std::errc::not_enough_memory || error == std::errc::too_many_files_open ||
         error == std::errc::too_many_files_open_in_system;
}

// Without memory there is no message to be put together.
[[noreturn]] void EndForMemory() {
  constexpr absl::string_view kText = "no memory\n";
  (void)!write(STDERR_FILENO, kText.data(), kText.size());
  _exit(kDeviceExitShortage);
}

[[noreturn]] void OnTerminate() {
  try {
    if (std::current_exception() != nullptr) throw;
  } catch (const std::bad_alloc&) {
    EndForMemory();
  } catch (const std::system_error& error) {
    if (IsShortage(error.code())) EndForShortage(error.what());
  } catch (...) {
    terminate_otherwise();
  }
  terminate_otherwise();
  abort();
}

}  // namespace

void EndOnShortage() {
  threads_are_needed.store(true, std::memory_order_relaxed);
  terminate_otherwise = std::set_terminate(OnTerminate);
  std::set_new_handler(EndForMemory);
}

void AllowLackOfThreads() { threads_are_needed.store(false, std::memory_order_relaxed); }

absl::Status CheckOpenFiles() {
  std::vector<UniqueFd> files;
  while (files.size() < kOpenFiles) {
    files.emplace_back(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0));
    if (!files.back().ok()) return ErrnoToStatus(errno, "opening files for gRPC");
  }
  return absl::OkStatus();
}

void EndForShortage(absl::string_view what) {
  LogError(absl::StrCat("the host does not give it what it needs: ", what));
  // No destructor: gRPC's wait for threads that may not exist.
  _exit(kDeviceExitShortage);
}

}  // namespace bulkhead::devices

// The linker calls this wherever pthread_create() is called (--wrap in BUILD): gRPC hangs or aborts
// where a thread of its own cannot be started. Rejected: to start as many threads as it takes, and
// end them again, before gRPC starts: that took 4 ms on a busy host, as long as all of a recovery,
// and the threads may be gone by the time that gRPC wants them.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier): the linker's names

int __real_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                          void* argument);

int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                          void* argument) {
  const int error = __real_pthread_create(thread, attributes, run, argument);
  if (error != 0 && bulkhead::devices::threads_are_needed.load(std::memory_order_relaxed)) {
    bulkhead::devices::EndForShortage(
        bulkhead::ErrnoToStatus(error, "starting a thread").message());
  }
  return error;
}

// NOLINTEND(bugprone-reserved-identifier)
}  // extern "C"
