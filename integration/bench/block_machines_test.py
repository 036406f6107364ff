"""Each machine of tools/bench block and scale boots the guest program and gives figures."""
import contextlib
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, ".")

from integration.bench import block, block_targets, processes, scale_busy  # noqa: E402


def built(label):
    return os.path.abspath(label[2:].replace(":", "/"))


class MachineTest(unittest.TestCase):
    def measure(self, target, options, queues=1, null=False):
        labels = {block_targets.GUEST, *target.labels}
        machine = target({label: built(label) for label in labels})
        # In memory, where flushes take no time.
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            file.write(bytes(1 << 20))
            file.flush()
            disk = block_targets.Disk(file.name, direct=False, aio="threads", queues=queues, null=null)
            return machine.run("run=bench_block cycles=1000000 queues=%d %s" % (queues, options),
                               disk, 120)

    def test_every_machine_gives_figures_of_every_cell(self):
        for target in block_targets.DEFAULT:
            with self.subTest(target.name):
                figures = block.parse(self.measure(
                    target, "modes=poll,interrupt depths=2 "
                            "operations=read,write,write+flush,seq-read,seq-write"), 1000)
                self.assertEqual(len(figures), 2 * 5)
                for cell, line in figures.items():
                    self.assertGreater(line["rate"], 0, cell)
                    self.assertGreater(line["p50_us"], 0, cell)
                    self.assertLessEqual(line["p50_us"], line["p99_us"], cell)
                    self.assertLessEqual(line["kicks"], 2, cell)
                    if cell[0] == "interrupt":
                        self.assertGreater(line["interrupts"], 0, cell)

    def test_every_machine_has_a_disk_without_io(self):
        for target in block_targets.DEFAULT:
            with self.subTest(target.name):
                figures = block.parse(self.measure(
                    target, "modes=poll,interrupt depths=4 operations=read,write+flush", 2, True),
                    1000)
                self.assertEqual(len(figures), 2 * 2)

    def test_every_machine_serves_two_processors(self):
        for target in block_targets.DEFAULT:
            with self.subTest(target.name):
                figures = block.parse(self.measure(target, "modes=interrupt depths=32", 2), 1000)
                self.assertEqual(list(figures), [("interrupt", "read", 32)])

    def test_a_guest_that_fails_is_an_error_with_its_words(self):
        for target in block_targets.DEFAULT:
            with self.subTest(target.name):
                with self.assertRaisesRegex(processes.BenchError, "BULKHEAD-FAIL unknown name: re"):
                    self.measure(target, "operations=re")


class ScaleTest(unittest.TestCase):
    def test_every_machine_serves_all_its_disks(self):
        with contextlib.ExitStack() as stack:
            disks = [stack.enter_context(tempfile.NamedTemporaryFile(dir="/dev/shm"))
                     for _ in range(3)]
            for disk in disks:
                disk.truncate(1 << 20)
            for target in scale_busy.ALL:
                machine = target({label: built(label)
                                  for label in {block_targets.GUEST, *target.labels}})
                for options, cpus in (("mode=poll", 1), ("mode=interrupt cpus=2", 2)):
                    with self.subTest(target.name + " " + options):
                        output = machine.run("run=bench_scale depth=4 cycles=100000000 " + options,
                                             [disk.name for disk in disks], cpus, 120)
                        figures = scale_busy.parse(output, 1000)
                        self.assertEqual(output.count("BENCH device="), 3)
                        self.assertGreater(figures["least_share"], 0)


if __name__ == "__main__":
    unittest.main()
