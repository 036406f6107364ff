#!/usr/bin/python3
"""The names of metrics in docs/monitoring.md, the dashboard and the alerts are those in the sources, and each
alert is explained. usage: ... WORKSPACE
"""
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve().parent
MONITORING = ROOT / "tools/packaging/monitoring"
MODEL = "bulkhead_device_model_"
NAME = re.compile(r"bulkhead_(?:vm|vcpu|device)_[a-z0-9_]+")


def names_in(path):
    """A histogram's buckets are those of the histogram."""
    names = {re.sub("_bucket$", "", name) for name in NAME.findall(path.read_text())}
    assert names, path
    return names


def names_of_programs():
    """What vmm and vmctl give themselves."""
    text = "".join((ROOT / path).read_text() for path in (
        "vmm/vm/vm_metrics.cc", "vmm/control/refused_clients.h", "tools/vmctl/metrics_page.cc"))
    names = set(NAME.findall(text)) - {MODEL}
    return names | {"bulkhead_device_" + name for name in re.findall(r'\bcounter\("(\w+)"', text)}


def names_of_models():
    names = set()
    for path in (ROOT / "devices").rglob("*.cc"):
        if re.search(r"/(testing|testdata|example|rig)/|_test\.cc$", str(path)):
            continue
        text = path.read_text()
        found = re.findall(r'\bAdd(?:Counter|Gauge)\(\s*metrics,\s*("\w+"|k\w+)', text)
        names |= {name.strip('"') for name in found}
        if '"malformed_"' in text:
            faults = re.search(r"kFaults\[\w+\] = \{nullptr,([^}]*)\}", text).group(1)
            names |= {"malformed_%s_total" % fault for fault in re.findall(r'"(\w+)"', faults)}
    header = (ROOT / "proto/balloon_link.h").read_text()
    names = {re.search(r'%s\[?\]? = "(\w+)"' % name, header).group(1) if name.startswith("k") else name
             for name in names}
    return {MODEL + name for name in names}


class MonitoringNamesTest(unittest.TestCase):
    def setUp(self):
        self.there = names_of_programs() | names_of_models()
        self.assertGreater(len(names_of_programs()), 30)
        self.assertGreater(len(names_of_models()), 60)

    def test_what_the_dashboard_shows_is_there(self):
        self.assertEqual(names_in(MONITORING / "grafana-dashboard.json") - self.there, set())

    def test_what_alerts_are_about_is_there(self):
        self.assertEqual(names_in(MONITORING / "prometheus-rules.yml") - self.there, set())

    def test_what_is_documented_is_there(self):
        self.assertEqual(names_in(ROOT / "docs/monitoring.md") - self.there, set())

    def test_what_is_there_is_documented(self):
        self.assertEqual(self.there - names_in(ROOT / "docs/monitoring.md"), set())

    def test_each_alert_is_explained(self):
        alerts = re.findall(r"alert: (\w+)", (MONITORING / "prometheus-rules.yml").read_text())
        explained = re.findall(r"^\| `(Bulkhead\w+)` \|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
        self.assertEqual(sorted(alerts), sorted(explained))


if __name__ == "__main__":
    unittest.main()
