"""Each machine of tools/bench mmio and doorbell boots the guest program and gives figures."""
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, ".")

from integration.bench import block_targets, doorbell, mmio, mmio_targets, processes  # noqa: E402


def built(label):
    return os.path.abspath(label[2:].replace(":", "/"))


class MachineTest(unittest.TestCase):
    def measure(self, target, options):
        labels = {mmio_targets.GUEST, *target.labels}
        machine = target({label: built(label) for label in labels})
        return machine.run("run=bench_mmio %s %s" % (machine.guest_options, options), 120)

    def test_every_machine_gives_figures_of_all_kinds(self):
        for target in mmio_targets.ALL:
            with self.subTest(target.name):
                output = self.measure(target, "samples=50 idle=100000 idle_samples=5")
                figures = mmio.parse(output)
                self.assertEqual(set(figures),
                                 {"read hot", "write hot", "read idle", "write idle"})
                for key, line in figures.items():
                    self.assertGreater(line["p50"], 0, key)
                    self.assertLessEqual(line["p50"], line["p99"], key)

    def test_accesses_from_user_mode_too(self):
        figures = mmio.parse(self.measure(mmio_targets.Vmm, "samples=50 level=3"))
        self.assertGreater(figures["read hot"]["p50"], 0)

    def test_a_guest_that_fails_is_an_error_with_its_words(self):
        for target in mmio_targets.ALL:
            with self.subTest(target.name):
                with self.assertRaisesRegex(processes.BenchError, "BULKHEAD-FAIL.*samples"):
                    self.measure(target, "samples=many")


class DoorbellTest(unittest.TestCase):
    def test_every_machine_gives_figures_of_all_kinds(self):
        for target in doorbell.ALL:
            with self.subTest(target.name), tempfile.NamedTemporaryFile() as file:
                file.truncate(1 << 20)
                labels = {mmio_targets.GUEST, *target.labels}
                machine = target({label: built(label) for label in labels})
                options = getattr(machine, "guest_options", "device=block")
                figures = doorbell.parse(machine.run(
                    "run=bench_doorbell %s samples=50 idle=100000 idle_samples=5" % options,
                    block_targets.Disk(file.name, direct=False, aio="threads", queues=1), 120), 1000)
                self.assertEqual(set(figures), {"%s %s" % (name, phase)
                                                for name in ("ring", "spin", "halt")
                                                for phase in ("hot", "idle")})
                for key, line in figures.items():
                    self.assertGreater(line["p50_us"], 0, key)
                    self.assertLessEqual(line["p50_us"], line["p99_us"], key)


if __name__ == "__main__":
    unittest.main()
