"""Tests run without network, on one thread (they share small machines), on fresh random inputs."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from serving import served as served

torch.set_num_threads(1)
