"""Tests of tools/bench compare."""
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, ".")

from integration.bench import compare  # noqa: E402

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

    def test_figures_of_one_file_only_and_single_values_are_not_compared(self):
        self.assertEqual(verdicts(document(a_ms=[1] * 5, b_ms=1), document(c_ms=[1] * 5, b_ms=2)), {})


class CommandLineTest(unittest.TestCase):
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
