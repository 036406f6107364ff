#ifndef BULKHEAD_TOOLS_VMCTL_COMMANDS_H_
#define BULKHEAD_TOOLS_VMCTL_COMMANDS_H_

#include "tools/vmctl/command.h"

// What each command does. Each prints its result, or what went wrong, and returns the exit code.
namespace bulkhead::vmctl {

// vm_commands.cc
ExitCode RunList(const Invocation& invocation);
ExitCode RunStatus(const Invocation& invocation);
ExitCode RunPause(const Invocation& invocation);
ExitCode RunResume(const Invocation& invocation);
ExitCode RunBalloon(const Invocation& invocation);

// metrics_command.cc
ExitCode RunMetrics(const Invocation& invocation);

// top_command.cc
ExitCode RunTop(const Invocation& invocation);

// end_commands.cc
ExitCode RunWake(const Invocation& invocation);
ExitCode RunShutdown(const Invocation& invocation);
ExitCode RunStop(const Invocation& invocation);

// device_commands.cc
ExitCode RunDevices(const Invocation& invocation);
ExitCode RunDeviceShow(const Invocation& invocation);
ExitCode RunDeviceRestart(const Invocation& invocation);
ExitCode RunUpgrade(const Invocation& invocation);
ExitCode RunDeviceResize(const Invocation& invocation);
ExitCode RunDeviceLimit(const Invocation& invocation);
ExitCode RunDeviceReset(const Invocation& invocation);
ExitCode RunDeviceStop(const Invocation& invocation);
ExitCode RunDeviceStart(const Invocation& invocation);
ExitCode RunDeviceLink(const Invocation& invocation);
ExitCode RunPci(const Invocation& invocation);

// events_command.cc
ExitCode RunEvents(const Invocation& invocation);

// trace_command.cc
ExitCode RunTrace(const Invocation& invocation);

// console_command.cc
ExitCode RunConsole(const Invocation& invocation);

// completion.cc
ExitCode RunCompletion(const Invocation& invocation);

// help.cc
ExitCode RunHelp(const Invocation& invocation);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_COMMANDS_H_
