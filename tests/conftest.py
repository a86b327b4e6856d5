"""Tests run without network, on one thread (they share small machines), on fresh random inputs."""

from __future__ import annotations

import gc
import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of BLAS too, and of the processes that tests start

import pytest
import shapes

shapes.check_shapes()  # before anything imports the package

import seeds  # noqa: E402
import torch  # noqa: E402
from serving import served as served  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not walk through it all again in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of each kind, for views and pages."""
    from hostile import make

    return make(tmp_path_factory.mktemp("shown"))


@pytest.fixture(scope="session")
def told(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with evidence, explanations and scores, for views and pages."""
    from hostile import tell

    return tell(made, tmp_path_factory.mktemp("told") / "run")


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Random draws follow from one seed a run and the test's name."""
    seeds.begin(request.node.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test that fails tells the seed."""
    report = yield
    if report.failed:
        report.sections.append(("seed", f"VLM_NEURONS_SEED={seeds.SEED}"))
    return report
