from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own: the setting stays for good.
PROGRAM = """
import resource, sys
import torch
from changenet.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.zeros(1 << 24).sum()
before = faults()
for _ in range(20):
    torch.ones(1 << 24).sum()  # 64 MiB
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again_instead_of_being_asked_for() -> None:
    mapped, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout)
        for how in ("default", "keep")
    )
    assert kept < mapped / 2
