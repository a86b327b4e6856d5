"""Files of sums are put together once each, whoever does it and when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vlm_neurons.scanning.concept_files import join, parts, read_part, write_part


def written(path, values):
    for block, value in values.items():
        write_part(path, "r", 0, [block], {"x": torch.tensor([float(value)])})


def only(path):
    (file,) = (path / "concepts").glob("fold*")
    return read_part(file)["x"].tolist()


def test_the_last_of_several_processes_may_put_all_together_before_another_adds_its_own(tmp_path):
    written(tmp_path, {b: 10**b for b in range(4)})
    join(tmp_path, "r", 0, [1, 3])
    join(tmp_path, "r", 0, range(4))
    join(tmp_path, "r", 0, [0, 2])
    assert only(tmp_path) == [1111.0]


def joined_often(path, blocks):
    for n in range(1, len(blocks) + 1):
        join(path, "r", 0, blocks[:n])


def test_processes_that_put_sums_together_at_once_lose_none(tmp_path):
    written(tmp_path, {b: 2**b for b in range(12)})
    with ThreadPoolExecutor(3) as pool:  # each opens the lock for itself, as processes do
        list(pool.map(lambda own: joined_often(tmp_path, list(range(own, 12, 3))), range(3)))
    join(tmp_path, "r", 0, range(12))
    assert only(tmp_path) == [4095.0]


def test_a_torn_or_foreign_file_is_named(tmp_path):
    written(tmp_path, {0: 1})
    with pytest.raises(ValueError, match=r"fold0-000000-1-.*belongs to another run"):
        parts(tmp_path, "other", 0, [0])
    (file,) = (tmp_path / "concepts").glob("fold*")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"fold0-000000-1-.*cannot be read"):
        join(tmp_path, "r", 0, [0])
