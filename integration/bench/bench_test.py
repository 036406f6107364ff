"""Tests of tools/bench that need neither KVM nor a peer."""
import argparse
import json
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, ".")

from integration.bench import (block, block_cells, boot, boot_run, channel,  # noqa: E402
                               console, doorbell, guest_ram, mmio, net, processes,
                               scale_busy, storm, table, vm)

OUTPUT = """
BENCH name=none phase=hot level=0 samples=10 min=90 p50=100 p90=110 p99=120 max=130
BENCH name=read phase=hot level=0 samples=10 min=1100 p50=1200 p90=1300 p99=1400 max=1500
BENCH name=write phase=hot level=0 samples=10 min=95 p50=600 p90=700 p99=800 max=900
BULKHEAD-PASS
"""


def figures(p50):
    return {"min": p50, "p50": p50, "p90": p50, "p99": p50, "max": p50}


class ParseTest(unittest.TestCase):
    def test_takes_the_cost_of_measuring_off(self):
        parsed = mmio.parse(OUTPUT)
        self.assertEqual(parsed["read hot"]["p50"], 1100)
        self.assertEqual(parsed["write hot"]["min"], 0)
        self.assertEqual(set(parsed), {"read hot", "write hot"})

    def test_missing_figures_are_an_error_that_shows_the_output(self):
        with self.assertRaisesRegex(processes.BenchError, "BULKHEAD-FAIL no device"):
            mmio.parse("BULKHEAD-FAIL no device\n")


class DoorbellTest(unittest.TestCase):
    LINE = "BENCH name=halt phase=%s samples=10 min=1 p50=3000 p90=4000 p99=9000 max=10000\n"

    def test_cycles_become_microseconds(self):
        self.assertEqual(doorbell.parse(self.LINE % "hot", tsc_khz=1000),
                         {"halt hot": {"min_us": 1.0, "p50_us": 3000.0, "p90_us": 4000.0,
                                       "p99_us": 9000.0, "max_us": 10000.0}})

    def test_the_aim_is_a_ratio_within_rounds(self):
        # The computer got twice as slow in the middle.
        rounds = [{name: {"halt idle": {"p50_us": p50 * slow, "p99_us": 0}}
                   for name, p50 in (("bare", 100), ("vmm", 140))} for slow in (1, 2, 2)]
        aim, = doorbell.judge_aims(mmio.summarize(rounds, ("bare",), "p50_us"))
        self.assertTrue(aim["met"])
        self.assertIn("1.40 times bare", aim["text"])


class MemoryTest(unittest.TestCase):
    def test_guest_ram_is_counted_apart(self):
        smaps = ("7f00-7f01 rw-s 00000000 00:01 7 /memfd:guest-ram (deleted)\nPss:  2048 kB\n"
                 "7f02-7f03 r-xp 00000000 fe:00 9 /opt/vmm\nPss:  1024 kB\nPss_Dirty:  512 kB\n")
        self.assertEqual(vm.memory_of(smaps), (1.0, 2.0))


class SummarizeTest(unittest.TestCase):
    def test_ratios_are_taken_within_a_round(self):
        # The machine got twice as slow in the middle: the ratio stays what it is.
        rounds = [{"in-vmm": {"read hot": figures(100 * slow)},
                   "vmm": {"read hot": figures(120 * slow)}} for slow in (1, 2, 2)]
        entry = mmio.summarize(rounds)["vmm"]["read hot"]
        self.assertAlmostEqual(entry["over in-vmm"], 1.2)
        self.assertEqual(entry["p50"], 240)
        self.assertNotIn("over qemu-multi-process", entry)


class AimsTest(unittest.TestCase):
    def judge(self, read, write, peer_read):
        def entry(over_floor, over_peer):
            return {"over in-vmm": over_floor, "over qemu-multi-process": over_peer}
        summary = {"vmm": {"read hot": entry(read, 1 / peer_read), "write hot": entry(write, 1)},
                   "in-vmm": {}, "qemu-multi-process": {}}
        return [aim["met"] for aim in mmio.judge_aims(summary)]

    def test_each_is_met_up_to_its_limit(self):
        self.assertEqual(self.judge(1.3, 1.1, 6.1), [True, True, True])
        self.assertEqual(self.judge(1.31, 1.1, 6.1), [False, True, True])
        self.assertEqual(self.judge(1.3, 1.11, 6.1), [True, False, True])
        self.assertEqual(self.judge(1.3, 1.1, 5.9), [True, True, False])

    def test_without_the_other_machine_nothing_is_judged(self):
        self.assertEqual(mmio.judge_aims({"vmm": {}}), [])


class BlockTest(unittest.TestCase):
    LINE = ("BENCH name=read mode=poll depth=16 bytes=4096 requests=1000 cycles=2000000 kicks=500 "
            "interrupts=10 p50=3000 p99=9000\nBULKHEAD-PASS\n")

    def test_cycles_become_requests_a_second_and_microseconds(self):
        figures = block.parse(self.LINE, tsc_khz=1000)["poll", "read", 16]
        self.assertEqual(figures, {"rate": 500.0, "kicks": 0.5, "interrupts": 0.01,
                                   "p50_us": 3000.0, "p99_us": 9000.0})

    def test_missing_figures_are_an_error_that_shows_the_output(self):
        with self.assertRaisesRegex(processes.BenchError, "BULKHEAD-FAIL no disk"):
            block.parse("BULKHEAD-FAIL no disk\n", tsc_khz=1000)

    @staticmethod
    def judge(cell, **over):
        """`over`: our rate over that of the machines in vmm's rounds."""
        # The machine got twice as slow in the middle.
        rounds = [{"vmm": {cell: {"rate": 100.0 * speed}},
                   **{name.replace("_", "-"): {cell: {"rate": 100.0 / ratio * speed}}
                      for name, ratio in over.items()}} for speed in (1, 0.5, 0.5)]
        return [aim["met"] for aim in block.judge_aims(block.summarize(rounds))]

    def test_what_the_record_costs_is_judged_within_rounds(self):
        cell = ("cache", "poll", "read", 1)
        self.assertEqual(self.judge(cell, vmm_no_record=0.98), [True])
        self.assertEqual(self.judge(cell, vmm_no_record=0.96), [False])
        self.assertEqual(self.judge(cell), [])

    def test_reads_from_memory_have_an_aim_of_their_own_and_the_rest_is_to_be_ahead(self):
        for cell, ratio, met in [(("cache", "poll", "read", 1), 8.1, [True]),
                                 (("tmpfs", "poll", "read", 1), 7.9, [False]),
                                 (("cache", "poll", "read", 8), 0.5, []),
                                 (("cache", "interrupt", "read", 16), 1.9, [False]),
                                 (("direct", "poll", "read", 1), 0.5, []),
                                 (("direct", "poll", "write+flush", 1), 1.1, [True]),
                                 (("null", "poll", "read", 1), 0.5, []),
                                 (("cache", "interrupt", "seq-read", 32), 0.9, [False])]:
            self.assertEqual(self.judge(cell, qemu_in_process=ratio), met, cell)

    def test_only_narrows_the_kinds_that_it_names(self):
        chosen = block_cells.select(True, block_cells.parse_only("interrupt,seq-read,depth=4,depth=7"))
        self.assertEqual(chosen, (("cache",), ("interrupt",), ("seq-read",), (4, 7)))
        self.assertEqual(block_cells.select(False, None), block_cells.ALL)

    def test_the_disk_without_io_is_measured_only_if_it_is_named(self):
        self.assertNotIn("null", block_cells.ALL.media)
        self.assertEqual(block_cells.select(False, block_cells.parse_only("null")).media, ("null",))


class NetTest(unittest.TestCase):
    LINE = ("BENCH name=send-1514 bytes=1514 frames=1000 lost=3 cycles=2000000 kicks=500 "
            "interrupts=10 p50=3000 p99=9000\nBULKHEAD-PASS\n")

    def test_cycles_become_frames_and_bits_a_second_and_microseconds(self):
        figures = net.parse(self.LINE, tsc_khz=1000)["send-1514"]
        self.assertEqual(figures, {"rate": 500.0, "gbit": 500 * 1514 * 8 / 1e9, "lost": 3,
                                   "kicks": 0.5, "interrupts": 0.01, "p50_us": 3000.0,
                                   "p99_us": 9000.0})

    def test_missing_figures_are_an_error_that_shows_the_output(self):
        with self.assertRaisesRegex(processes.BenchError, "BULKHEAD-FAIL no TAP"):
            net.parse("BULKHEAD-FAIL no TAP\n", tsc_khz=1000)

    def test_each_cell_is_to_be_ahead_of_qemu_within_rounds(self):
        for ratio, met in [(1.1, [True]), (0.9, [False])]:
            # The machine got twice as slow in the middle.
            rounds = [{"vmm": {"request": {"rate": 100.0 * speed, "lost": 0}},
                       "qemu-in-process": {"request": {"rate": 100.0 / ratio * speed, "lost": 0}}}
                      for speed in (1, 0.5, 0.5)]
            summary = net.summarize(rounds)
            self.assertEqual([aim["met"] for aim in net.judge_aims(summary)], met)
            del rounds[0]["qemu-in-process"]
            self.assertEqual(net.judge_aims(net.summarize(rounds[:1])), [])


class ConsoleTest(unittest.TestCase):
    OUTPUT = ("BENCH name=poll bytes=1000 cycles=2000000\n"
              "BENCH name=interrupt bytes=1000 cycles=4000000 interrupts=5 most_bytes=256 "
              "longest_cycles=11000 handler_cycles=3000000\n")

    def test_cycles_become_bytes_a_second_and_milliseconds(self):
        parsed = console.parse(self.OUTPUT, tsc_khz=1000)
        self.assertEqual(parsed["poll"]["bytes_a_second"], 500.0)
        self.assertEqual(parsed["interrupt"]["bytes_a_second"], 250.0)
        self.assertEqual(parsed["interrupt"]["longest_ms"], 11.0)
        self.assertEqual(parsed["interrupt"]["handler_share"], 0.75)

    def test_missing_figures_are_an_error_that_shows_the_output(self):
        with self.assertRaisesRegex(processes.BenchError, "BULKHEAD-FAIL"):
            console.parse("BULKHEAD-FAIL\n", tsc_khz=1000)

    def test_a_handler_that_goes_on_for_long_misses_the_aim(self):
        def judge(tsc_khz):
            rounds = [{"vmm": console.parse(self.OUTPUT, tsc_khz)}]
            return [aim["met"] for aim in console.judge_aims(console.summarize(rounds))]
        self.assertEqual(judge(1000), [False])
        self.assertEqual(judge(1100), [True])


class ScaleTest(unittest.TestCase):
    LINES = "BENCH device=%d requests=%d cycles=1000000\n"

    def test_requests_of_all_devices_and_the_share_of_the_least(self):
        output = self.LINES % (0, 300) + self.LINES % (1, 100)
        self.assertEqual(scale_busy.parse(output, tsc_khz=1000), {"rate": 400.0, "least_share": 0.5})
        with self.assertRaisesRegex(processes.BenchError, "BULKHEAD-FAIL no disk"):
            scale_busy.parse("BULKHEAD-FAIL no disk\n", tsc_khz=1000)

    def test_of_two_devices_on_one_vcpu_neither_is_to_get_less_than_40_percent(self):
        def judge(share):
            cells = {scale_busy.cell_name("poll", 2, 1): {"rate": 1, "least_share": share}}
            return [aim["met"] for aim in scale_busy.judge_aims([{"vmm": cells}] * 3)]
        self.assertEqual((judge(0.8), judge(0.79)), ([True], [False]))
        self.assertEqual(scale_busy.judge_aims([]), [])


class BootTest(unittest.TestCase):
    @staticmethod
    def line(number, machine, **rest):
        return json.dumps({"round": number, "machine": machine, "cell": "quiet", **rest})

    def test_what_fails_at_first_is_left_out_and_the_first_round_does_not_count(self):
        lines = [self.line(0, "vmm", figures={"init_ms": 9}), self.line(0, "qemu-pc", error="no"),
                 "noise", self.line(1, "vmm", figures={"init_ms": 4})]
        self.assertEqual(boot.collect(lines, 1, ["quiet"]),
                         ([{"vmm": {"quiet": {"init_ms": 4}}}], {"qemu-pc": "no"}))
        with self.assertRaisesRegex(processes.BenchError, "boots are missing"):
            boot.collect(lines[:2], 1, ["quiet"])

    def test_the_aim_is_half_of_the_fastest_peer_within_each_round(self):
        # The computer got twice as slow in the middle.
        rounds = [{name: {"quiet": {"init_ms": ms * slow}} for name, ms in
                   (("vmm", 50), ("qemu-pc", 100), ("qemu-q35", 120))} for slow in (1, 2, 2)]
        aim, = boot.judge_aims(rounds)
        self.assertTrue(aim["met"])
        self.assertIn("quiet: to init in 0.50 times", aim["text"])

    def test_steps_of_one_boot_are_timed(self):
        script = "echo 'the guest runs' >&2; sleep 0.1; echo BULKHEAD-READY 1.5; sleep 0.1; exit "
        figures = boot_run.boot(["sh", "-c", script + "0"], limit_s=60)
        self.assertEqual(figures["guest_uptime_ms"], 1500)
        self.assertGreaterEqual(figures["init_ms"], figures["first_instruction_ms"])
        self.assertGreater(figures["power_off_ms"], 90)
        with self.assertRaisesRegex(boot_run.Failure, "ended with code 3"):
            boot_run.boot(["sh", "-c", script + "3"], limit_s=60)
        with self.assertRaisesRegex(boot_run.Failure, "not ready within"):
            boot_run.boot(["sh", "-c", "sleep 1000"], limit_s=0.2)

    def test_the_first_traced_exit_of_a_peer_ends_it(self):
        script = "echo kvm_run_exit cpu_index 0, reason 2 >&2; sleep 1000"
        self.assertLess(boot_run.first_exit_ms(["sh", "-c", script], limit_s=60), 60000)


class ChannelTest(unittest.TestCase):
    @staticmethod
    def output(**p50_ns):
        def entry(name):
            return {"name": name + "/real_time", "p99_ns": 9000.0, "items_per_second": 2e6,
                    "p50_ns": p50_ns.get(name.split("/")[0].split("<")[0], 100.0)}
        return json.dumps({"benchmarks": [entry(name) for name in channel._CELLS]})

    def test_each_cell_has_microseconds_and_throughput(self):
        figures = channel.parse(self.output(ReadPolled=300.0))["vmm"]["round trip, polled"]
        self.assertEqual(figures, {"p50_us": 0.3, "p99_us": 9.0, "rate": 2e6})

    def test_a_cell_that_is_missing_or_failed_is_an_error(self):
        with self.assertRaisesRegex(processes.BenchError, "no figures of: round trip, polled"):
            channel.parse('{"benchmarks": []}')
        with self.assertRaisesRegex(processes.BenchError, "ReadPolled: no answer"):
            channel.parse('{"benchmarks": [{"name": "ReadPolled", "error_occurred": true, '
                          '"error_message": "no answer"}]}')

    def test_asleep_is_judged_beside_two_eventfds(self):
        def judge(ours):
            rounds = [channel.parse(self.output(ReadAsleep=ours, BareRoundTrip=1000.0))] * 3
            return [aim["met"] for aim in channel.judge_aims(rounds)]
        self.assertEqual((judge(1300.0), judge(1310.0)), ([True], [False]))


class StormTest(unittest.TestCase):
    def test_percentiles_are_values_that_were_measured(self):
        self.assertEqual(storm.percentile([5, 1, 3], 50), 3)
        self.assertEqual(storm.percentile(list(range(1, 101)), 99), 99)
        self.assertEqual(storm.percentile([7], 99), 7)

    def test_aims_are_those_of_a_start_with_a_spare_or_without(self):
        def judge(ms, spare):
            return [aim["met"] for aim in storm._judge([ms] * 3, spare)]
        self.assertEqual((judge(15, False), judge(15, True)), ([True, True], [False, False]))
        self.assertEqual(storm._judge([], False), [])

    def test_what_the_host_has_no_memory_for_is_left_out(self):
        args = argparse.Namespace(ram=["4M", "900000G"], hugepages=None)
        self.assertEqual(guest_ram.cells(args),
                         {"4M, 4K pages": {"ram": "4M", "hugepages": "none"}})
        args.ram = ["900000G"]
        with self.assertRaisesRegex(processes.BenchError, "nothing to measure"):
            guest_ram.cells(args)

    def test_terminate_ends_what_ignores_sigterm_and_what_has_ended(self):
        for script, code in (("exit 3", 3), ("exec sleep 1000", -15),
                             ("trap '' TERM; echo ready; while :; do sleep 0.1; done", -9)):
            process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
            if code == -9:
                process.stdout.read(5)
            elif code == 3:
                process.wait()
            processes.terminate(process, 0.5 if code == -9 else 60)
            self.assertEqual(process.returncode, code)


class ProcessTest(unittest.TestCase):
    def test_gives_exit_code_and_output(self):
        code, output, errors = processes.run(["sh", "-c", "echo out; echo err >&2; exit 7"], 60)
        self.assertEqual((code, output, errors), (7, "out\n", "err\n"))

    def test_what_hangs_is_killed_with_its_children_and_what_it_said_is_shown(self):
        with self.assertRaisesRegex(processes.BenchError, "said:\nhere"):
            processes.run(["sh", "-c", "echo here; sleep 1000 & wait"], 0.3)

    def test_background_is_gone_after_its_block(self):
        with processes.Background(["sleep", "1000"]) as process:
            self.assertIsNone(process.poll())
        self.assertEqual(process.returncode, -9)

    def test_realtime_children_have_the_priority_or_are_refused_it(self):
        # In a process of its own: the setting lasts.
        program = """
import os, sys
sys.path.insert(0, ".")
from integration.bench import processes
processes.use_realtime()
child = "import os; print(os.sched_getscheduler(0) == os.SCHED_FIFO)"
try:
    print(processes.run([sys.executable, "-c", child], 60)[1].strip())
except processes.BenchError as error:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        print("this process may, its child may not")
    except OSError:
        print("needs root" in str(error))
"""
        result = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True,
                                text=True, timeout=60, check=False)
        self.assertEqual(result.stdout.strip(), "True", result.stderr)

    def test_absent_program_is_named(self):
        with self.assertRaisesRegex(processes.BenchError, "/no/such/program"):
            processes.run(["/no/such/program"], 1)


class TableTest(unittest.TestCase):
    def test_first_column_to_the_left_others_to_the_right(self):
        self.assertEqual(table.render(["a", "b"], [["xyz", 1], ["x", 100]]),
                         ["a      b", "---  ---", "xyz    1", "x    100"])


class CommandLineTest(unittest.TestCase):
    def bench(self, *args):
        return subprocess.run([sys.executable, "tools/bench", *args], capture_output=True,
                              text=True, timeout=60, check=False)

    def test_help_names_the_benchmarks(self):
        result = self.bench("--help")
        self.assertEqual(result.returncode, 0)
        self.assertIn("mmio", result.stdout)
        self.assertEqual(self.bench("mmio", "--help").returncode, 0)

    def test_bad_usage_ends_with_2(self):
        for args in ([], ["nonsense"], ["mmio", "--rounds=0"], ["mmio", "--samples=20001"],
                     ["mmio", "--targets=toaster"], ["mmio", "--level=1"],
                     ["doorbell", "--rounds=0"], ["doorbell", "--targets=toaster"],
                     ["console", "--bytes=0"], ["block", "--rounds=0"], ["block", "--targets=toaster"],
                     ["block", "--only=toast"], ["block", "--only=depth=33"],
                     ["storm", "--way=talk"], ["storm", "--ram=8"],
                     ["recovery", "--ram=8"], ["recovery", "--ram=1G", "--hugepages=4K"],
                     ["scale", "--start=32"], ["scale", "--idle=0"], ["scale", "--only=run"],
                     ["scale", "--busy=31"], ["scale", "--busy-cpus=9"],
                     ["boot", "--only=loud"], ["boot", "--targets=toaster"],
                     ["channel", "--rounds=0"], ["net", "--rounds=0"],
                     ["net", "--targets=toaster"], ["net", "--cells=request,toast"]):
            result = self.bench(*args)
            self.assertEqual(result.returncode, 2, args)
            self.assertIn("usage:", result.stderr)


if __name__ == "__main__":
    unittest.main()
