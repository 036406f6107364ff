#include "vmm/library_logs.h"

#include <grpc/support/log.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "google/protobuf/stubs/logging.h"
#include "vmm/process/printable.h"

namespace bulkhead::vmm {
namespace {

// A library logs a failed assertion and aborts: the log may take this long to write the line.
constexpr absl::Duration kLastLineTimeout = absl::Milliseconds(200);

void OnGrpcLog(gpr_log_func_args* args) {
  const std::string text = absl::StrCat("gRPC: ", Printable(args->message));
  switch (args->severity) {
    case GPR_LOG_SEVERITY_DEBUG:
      return LogDebug(text);
    case GPR_LOG_SEVERITY_INFO:
      return LogInfo(text);
    case GPR_LOG_SEVERITY_ERROR:
      LogWarning(text);
      if (absl::string_view(args->message).find("assertion failed") != absl::string_view::npos) {
        FlushLog(kLastLineTimeout);
      }
  }
}

void OnProtobufLog(google::protobuf::LogLevel level, const char*, int, const std::string& message) {
  LogWarning(absl::StrCat("protobuf: ", Printable(message)));
  if (level == google::protobuf::LOGLEVEL_FATAL) FlushLog(kLastLineTimeout);
}

}  // namespace

void RouteLibraryLogs() {
  gpr_set_log_function(OnGrpcLog);
  google::protobuf::SetLogHandler(OnProtobufLog);
}

}  // namespace bulkhead::vmm
