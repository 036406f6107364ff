#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_H_

// The programs in the guest image: one function and one file of programs/ each, which says what
// it shows, what it needs and which options it takes. "run=NAME" on the command line picks one.
// A program runs on the first CPU, interrupts off; returning means that it has passed.

namespace bulkhead::guest {

void RunBalloon();
void RunHello();
void RunPciTest();
void RunMmioTest();
void RunDoorbellTest();
void RunMsixTest();
void RunIntxTest();
void RunDmaTest();
void RunOrderTest();
void RunExampleTest();
void RunPanic();
void RunVirtioRngTest();
void RunVirtioBlkTest();
void RunDiskStorm();
void RunEverythingStorm();
void RunDiskGrowth();
void RunNetStorm();
void RunNetLink();
void RunWatchDevice();
void RunWatchdog();
void RunRebootTest();
void RunConsoleStorm();
void RunHostileDriver();
void RunIdle();
void RunTicker();
void RunTouchRam();
void RunUseDevices();
void RunVsockEcho();
void RunBenchMmio();
void RunBenchBlock();
void RunBenchConsole();
void RunBenchDoorbell();
void RunBenchScale();
void RunBenchNet();

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_H_
