"""With freed memory kept, further tensors of the same size touch few new pages, in the main thread and in others."""

import json
import os
import platform
import subprocess
import sys

import pytest

from tests.workspace import ROOT

SCRIPT = """
import json, resource, sys, threading, torch
from tasks.core.allocator import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()

def measure():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(10_000_000)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
measure()
thread = threading.Thread(target=measure)
thread.start()
thread.join()
print(json.dumps(found))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library of this machine is not glibc")


def _faults(*words: str, **variables: str) -> list[int]:
    """Return how many pages 50 tensors of 40 MB touch for the first time, in the main thread and then in another."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    found: list[int] = json.loads(done.stdout)
    return found


def test_freed_memory_is_used_again_and_what_the_environment_says_stays():
    fresh = _faults()
    assert all(kept < 0.4 * count for kept, count in zip(_faults("keep"), fresh, strict=True))
    said = _faults("keep", MALLOC_MMAP_THRESHOLD_="65536")
    assert all(count > 0.9 * other for count, other in zip(said, fresh, strict=True))
