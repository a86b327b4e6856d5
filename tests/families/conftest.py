"""Every test that takes `family` is run with every family of the table."""

from __future__ import annotations

import builders
import pytest


@pytest.fixture(params=builders.FAMILIES)
def family(request: pytest.FixtureRequest) -> builders.Made:
    """A tiny model of one family."""
    return builders.made(request.param)
