"""Random draws of tests: the same in every run, so that a change of the code is what makes a test fail.

`VLM_NEURONS_SEED=random pytest` draws anew, to look for what the usual draw does not show; a failing test says what was
drawn, and `VLM_NEURONS_SEED=123 pytest FILE` draws it again.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import zlib

import numpy as np
import torch

USUAL = 20251
_asked = os.environ.get("VLM_NEURONS_SEED") or USUAL
SEED = secrets.randbelow(2**31) if _asked == "random" else int(_asked)
_drawn: dict[str, int] = {}
_test = 0  # outside of tests, such as in modules


def number(most: int = 2**31) -> int:
    """A whole number below `most`: other for every test, every line, and every time that it is reached."""
    caller = sys._getframe()  # inspect.stack() reads the sources of every frame: a second a call in a deep test
    while caller.f_code.co_filename == __file__ and caller.f_back:
        caller = caller.f_back
    place = f"{os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}"
    _drawn[place] = _drawn.get(place, 0) + 1
    return int(np.random.default_rng([SEED, _test, zlib.crc32(place.encode()), _drawn[place]]).integers(most))


def rng() -> np.random.Generator:
    """A generator of numpy."""
    return np.random.default_rng(number())


PLANTED = number(10**6)  # of all planted neurons: the scenes of one seed take seconds to draw


def begin(test: str) -> None:
    """At the start of a test: global generators follow from the seed and the test's name, counts begin anew."""
    global _test
    _drawn.clear()
    _test = zlib.crc32(test.encode())
    own = _test ^ SEED
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)
