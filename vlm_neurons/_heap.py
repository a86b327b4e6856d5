"""What the allocator does with memory that is freed, where arrays of layers come and go."""

from __future__ import annotations

import torch

# glibc maps an allocation by itself, and unmaps it when it is freed, from a threshold on that starts at 128 KiB and
# that grows to the size of any such allocation that is freed, up to 32 MiB; of other memory it gives back what is free
# at the end of the heap beyond twice that threshold (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD).
_MOST = 2**25 - 2**16


def keep_freed() -> None:
    """Let memory that is freed stay with the process for the next tensors: up to 64 MiB of it at the end of the heap,
    and what lies between tensors that live. Of allocators other than glibc's nothing changes.

    Without it tensors that come and go with every layer go back to the system and come again page by page; how often
    is a matter of luck.
    """
    torch.empty(_MOST, dtype=torch.uint8, device="cpu")  # freed at once, and never touched: it takes no memory
