"""The VMs of tools/bench recovery and scale: what they do is what is measured."""
import os
import sys
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, ".")

from integration.bench import recovery, vm  # noqa: E402


def built(path):
    return os.path.abspath(path)


PROGRAMS = recovery.Programs(built("vmm/vmm"), built("tools/vmctl/vmctl"),
                             built("kernel_images/baremetal/guest.elf"), built("devices/rig/rig"))


def command(cmdline):
    return [PROGRAMS.vmm, "--verbose", "--control=none", "--kernel", PROGRAMS.guest, "--memory=64M",
            "--device-dir=" + os.path.dirname(built("devices/uart16550/uart16550")),
            "--cmdline=" + cmdline]


class IdleVmTest(unittest.TestCase):
    def test_a_guest_that_halts_uses_no_processor_and_one_that_spins_does(self):
        with vm.Vm(command("run=idle")) as machine:
            machine.wait(output=b"idle")
            (pid, name), *others = machine.processes()
            self.assertEqual(name, "vmm")
            self.assertIn("uart16550", [other for _, other in others])
            self.assertGreater(vm.memory(pid)[0], 0)
            end = vm.cpu_seconds(pid) + 0.5
            while vm.cpu_seconds(pid) < end:  # for as long as a busy computer takes
                time.sleep(0.1)
        with vm.Vm(command("run=idle halt=1")) as machine:
            machine.wait(output=b"idle")
            pid = machine.processes()[0][0]
            before = vm.cpu_seconds(pid)
            time.sleep(1)
            self.assertLess(vm.cpu_seconds(pid) - before, 0.5)
            self.assertGreater(vm.wake_ups(pid), 0)

    def test_a_vm_that_does_not_come_up_is_an_error_with_its_words(self):
        with self.assertRaisesRegex(vm.BenchError, "cpus"):
            with vm.Vm(command("run=idle") + ["--cpus=0"]) as machine:
                machine.wait()


class RecoveryTest(unittest.TestCase):
    def test_the_disk_uses_all_ram_and_recovers_from_each_kill(self):
        with recovery.Machine(PROGRAMS, spare=False, ram="64M", program="touch_ram") as machine:
            for _ in range(2):
                machine.touch_ram()
                noticed, running = machine.kill("disk0")
                self.assertGreater(running, noticed)
            machine.touch_ram()


if __name__ == "__main__":
    unittest.main()
