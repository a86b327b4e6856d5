"""Memory of forward passes on a CPU."""

import platform
import subprocess
import sys

import pytest

LAYERS = """
import resource, torch
from vlm_neurons._heap import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):  # as layers of 4 MiB each, of which two are there at once
        one = torch.ones(2**20)
        other = one + 1
        del one, other
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
before = faults()
keep_freed()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_layers_of_a_pass_take_the_memory_of_those_before_them():
    done = subprocess.run([sys.executable, "-c", LAYERS], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 50 < before  # pages: each tensor has 1024
