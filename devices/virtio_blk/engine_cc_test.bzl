"""Tests of a whole disk run over each of its engines."""

load("@rules_cc//cc:defs.bzl", "cc_test")

def engine_cc_test(name, **kwargs):
    """NAME runs over io_uring, NAME_over_threads over the pool of threads."""
    cc_test(
        name = name,
        env = {"BULKHEAD_TEST_IO_ENGINE": "io_uring"},
        **kwargs
    )
    cc_test(
        name = name + "_over_threads",
        env = {"BULKHEAD_TEST_IO_ENGINE": "threads"},
        **kwargs
    )
