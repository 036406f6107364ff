"""Tests of a whole disk run over each of its engines."""

load("@rules_cc//cc:defs.bzl", "cc_test")

def engine_cc_test(name, direct_io = True, **kwargs):
    """NAME runs over what the disk chooses, NAME_over_threads over the pool of threads.

    NAME_with_direct_io runs over io_uring and threads on files with O_DIRECT, if direct_io: not where
    processes are killed and nobody waits for the direct I/O that they leave behind.
    """
    cc_test(
        name = name,
        env = {"BULKHEAD_TEST_IO_ENGINE": "auto"},
        **kwargs
    )
    cc_test(
        name = name + "_over_threads",
        env = {"BULKHEAD_TEST_IO_ENGINE": "threads"},
        **kwargs
    )
    if direct_io:
        cc_test(
            name = name + "_with_direct_io",
            env = {
                "BULKHEAD_TEST_IO_ENGINE": "auto",
                "BULKHEAD_TEST_OPEN_FLAGS": "direct",
            },
            **kwargs
        )
