"""Each machine of tools/bench net boots the guest program and gives figures."""
import os
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, ".")

from integration.bench import net, net_targets, processes  # noqa: E402


def built(label):
    return os.path.abspath(label[2:].replace(":", "/"))


class MachineTest(unittest.TestCase):
    def measure(self, target, options):
        machine = target({label: built(label) for label in {net_targets.GUEST, *target.labels}})
        return machine.run("run=bench_net cycles=200000000 " + options, 120)

    def test_every_machine_gives_figures_of_every_cell(self):
        outside = os.readlink("/proc/self/ns/net")
        with net_targets.Network():
            for target in net_targets.default():
                with self.subTest(target.name):
                    figures = net.parse(self.measure(target, ""), 1000)
                    self.assertEqual(tuple(figures), net.CELLS)
                    for cell, line in figures.items():
                        self.assertGreater(line["rate"], 0, cell)
                        self.assertEqual(line["lost"], 0, cell)
                    self.assertGreater(figures["request"]["p50_us"], 0)
        self.assertEqual(os.readlink("/proc/self/ns/net"), outside)

    def test_a_guest_that_fails_is_an_error_with_its_words(self):
        with net_targets.Network(), self.assertRaisesRegex(processes.BenchError,
                                                           "BULKHEAD-FAIL unknown name: toast"):
            self.measure(net_targets.Vmm, "cells=toast")


if __name__ == "__main__":
    unittest.main()
