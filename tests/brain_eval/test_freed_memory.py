"""Freed memory is kept while activations are computed, and handed back afterwards."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from brain_eval import freed_memory
from brain_eval.freed_memory import freed_memory_kept

#: float32 values of a block that glibc would map anew: 80 MB.
LARGE = 20_000_000
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def page_faults_of_five_blocks():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(LARGE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


@glibc
def test_blocks_take_the_pages_of_those_before_them():
    anew = page_faults_of_five_blocks()
    with freed_memory_kept():
        page_faults_of_five_blocks()  # what is allocated beside them may take the end of the first
        kept = page_faults_of_five_blocks()
    assert kept < anew / 10


@glibc
def test_what_was_kept_is_handed_back():
    before = resident_bytes()
    with freed_memory_kept():
        torch.ones(LARGE)
        assert resident_bytes() > before + 3 * LARGE
    assert resident_bytes() < before + LARGE


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(freed_memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: pytest.fail("asked the C library"))
    with freed_memory_kept():
        torch.ones(3)
