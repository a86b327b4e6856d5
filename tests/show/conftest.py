"""What the tests of this folder share: one run of each kind."""

from __future__ import annotations

import pytest
from hostile import Made, Told, make, tell


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("show"))


@pytest.fixture(scope="session")
def told(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Told:
    return tell(made, tmp_path_factory.mktemp("told") / "run")
