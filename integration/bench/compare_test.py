"""Tests of tools/bench compare and html."""
import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, ".")

from integration.bench import compare, page  # noqa: E402

FOLDER = "integration/bench/testdata/"


def document(**figures):
    return {"benchmark": "any", "machine": {}, **figures}


def verdicts(old, new, least_percent=0.0):
    return {name: verdict for name, _, _, verdict in compare.compare(old, new, least_percent)}


class IntervalTest(unittest.TestCase):
    def test_five_samples_are_the_least_that_bound_a_median(self):
        self.assertIsNone(compare.percentile_interval([1, 2, 3, 4], 50))
        self.assertEqual(compare.percentile_interval([5, 1, 4, 2, 3], 50), (3, 1, 5))

    def test_more_samples_leave_their_extremes_out(self):
        self.assertEqual(compare.percentile_interval(range(1, 11), 50), (5.5, 2, 9))
        self.assertEqual(compare.percentile_interval(range(1, 2002), 50), (1001, 959, 1043))

    def test_the_99th_percentile_needs_hundreds_of_samples(self):
        self.assertIsNone(compare.percentile_interval(range(300), 99))
        middle, least, most = compare.percentile_interval(range(1, 1001), 99)
        self.assertEqual(middle, 990)
        self.assertTrue(least < 990 < most)


class CompareTest(unittest.TestCase):
    def test_what_overlaps_is_noise(self):
        self.assertEqual(verdicts(document(start_ms=[1, 2, 3, 4, 5]),
                                  document(start_ms=[5, 6, 7, 8, 9])), {"start_ms": ""})

    def test_the_name_tells_which_direction_is_the_better_one(self):
        low, high = [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]
        for name, verdict in (("start_ms", "worse"), ("rate", "better"), ("color", "moved")):
            self.assertEqual(verdicts(document(**{name: low}), document(**{name: high})),
                             {name: verdict})

    def test_small_changes_can_be_left_out(self):
        old, new = document(a_ms=[100] * 5), document(a_ms=[101] * 5)
        self.assertEqual(verdicts(old, new, 1.0), {"a_ms": "worse"})
        self.assertEqual(verdicts(old, new, 2.0), {"a_ms": ""})

    def test_beside_a_peer_a_slower_computer_changes_nothing(self):
        def rounds(slow, ours):
            return document(rounds=[{"vmm": {"read hot": {"p50": ours * slow, "max": 1}},
                                     "peer": {"read hot": {"p50": 100 * slow, "max": 1}}}] * 5)
        self.assertEqual(verdicts(rounds(1, 50), rounds(3, 50)), {"/ peer read hot p50": ""})
        self.assertEqual(verdicts(rounds(1, 50), rounds(1, 60)), {"/ peer read hot p50": "worse"})

    def test_a_cell_that_no_peer_has_is_compared_by_itself(self):
        rounds = document(rounds=[{"vmm": {"posted": {"p50_us": 5}}, "peer": {}}] * 5)
        self.assertEqual(verdicts(rounds, rounds), {"vmm posted p50_us": ""})

    def test_figures_of_one_file_only_and_single_values_are_not_compared(self):
        self.assertEqual(verdicts(document(a_ms=[1] * 5, b_ms=1), document(c_ms=[1] * 5, b_ms=2)), {})


class PageTest(unittest.TestCase):
    DISTRIBUTION = {"min": 1, "p50": 30, "p99": 2000, "max": 30000}
    DOCUMENTS = (
        document(rounds=[{"vmm": {"read hot": DISTRIBUTION}, "<peer>": {"read hot": DISTRIBUTION}}]),
        document(rounds=[{"vmm": {"cache poll read 1": {"rate": 10.0},
                                  "cache poll read 16": {"rate": 90.0}}}]),
        document(ram=["64M", "8G"], detection_ms={"64M, 4K pages": [0, 1, 2], "8G, 4K pages": [3]},
                 restart_ms={"64M, 4K pages": [1, 2], "8G, 4K pages": [4, 5]}),
        document(start_ms={"1": [1, 2, 3]}, idle_cpu_percent={"1": {"all": [0.0, 0.0]}},
                 rounds=[{"vmm": {"poll, 2 devices, 1 vCPUs": {"rate": 1, "least_share": 1}}}]),
        document(first_instruction_ms=[5, 6, 7]),
        document(rounds=[{"vmm": {"quiet": {"first_instruction_ms": 9.0, "init_ms": 90.0}}}]),
        document(rounds=[{"vmm": {"reads by 2 vCPUs": {"p50_us": 1.0, "p99_us": 9.0, "rate": 1e6}},
                          "floor": {}}]),
        document(first_completions_ms={"64M, 4K pages": [1, 2], "8G, 4K pages": [4, 5]}))
    CHARTS = {"mmio": 1, "block": 1, "recovery": 3, "scale": 4, "startup": 1, "boot": 1, "channel": 2, "storm": 2}

    def test_each_benchmark_has_its_charts_and_nothing_is_loaded_from_elsewhere(self):
        for figures, (benchmark, count) in zip(self.DOCUMENTS, self.CHARTS.items()):
            text = page.render([{**figures, "benchmark": benchmark}])
            charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
            self.assertEqual(len(charts), count, benchmark)
            for chart in charts:
                for point in xml.etree.ElementTree.fromstring(chart).iter("circle"):
                    self.assertTrue(0 <= float(point.get("cx")) <= 640, chart)
                    self.assertTrue(0 <= float(point.get("cy")) <= 300, chart)
            self.assertNotRegex(text, "src=|href=|url\\(|<script|<peer>")

    def test_round_numbers_enclose_the_values(self):
        for least, most, log in ((0, 0.07, False), (3, 97, False), (30, 70, True),
                                 (1, 3e6, True)):
            ticks = page.ticks(least, most, log)
            self.assertTrue(ticks[0] <= least and ticks[-1] >= most, ticks)
            self.assertTrue(2 <= len(ticks) <= 10, ticks)


class CommandLineTest(unittest.TestCase):
    def test_html_writes_a_page_or_says_why_not(self):
        with tempfile.TemporaryDirectory() as folder:
            written = os.path.join(folder, "page.html")
            for source, code in ((FOLDER + "old.json", 0), ("/nonexistent", 2)):
                result = subprocess.run([sys.executable, "tools/bench", "html", written, source],
                                        capture_output=True, text=True, timeout=60, check=False)
                self.assertEqual((result.returncode, result.stdout), (code, ""), result.stderr)
            with open(written, encoding="utf-8") as file:
                self.assertIn("Start of vmm to the guest", file.read())

    def run_compare(self, old, new, *options):
        return subprocess.run([sys.executable, "tools/bench", "compare", old, new, *options],
                              capture_output=True, text=True, timeout=60, check=False)

    def test_something_worse_gives_exit_code_1_and_a_table(self):
        result = self.run_compare(FOLDER + "old.json", FOLDER + "new.json")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stdout, r"start_ms 31 +220 +270 +\+22.7 % +200-240 +250-290 +worse")
        self.assertRegex(result.stdout, r"idle_cpu_percent 31 all .*better")
        self.assertNotIn("start_ms 1 ", result.stdout)
        self.assertIn("not the same: seconds: 30 -> 10", result.stdout)
        self.assertIn("3 figures: 1 worse, 1 better, 0 moved", result.stdout)
        self.assertNotIn("\033", result.stdout)

    def test_nothing_worse_gives_exit_code_0(self):
        result = self.run_compare(FOLDER + "new.json", FOLDER + "new.json", "--all")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("start_ms 1 ", result.stdout)

    def test_what_cannot_be_compared_gives_exit_code_2_and_one_line(self):
        for old, words in (("/nonexistent", "No such file"), ("tools/bench", "Expecting value")):
            result = self.run_compare(old, FOLDER + "new.json")
            self.assertEqual((result.returncode, result.stdout), (2, ""))
            self.assertIn(words, result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
