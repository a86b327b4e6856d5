#!/usr/bin/env bash
# Guess: scipy.stats computes in float64 whatever it is given, so that tests of float16 activations have the p-values of the same
# numbers in float64, up to rounding.
# Seen (scipy 1.17.1, numpy 2.4.6): rank tests turn their ranks, and others their sums, into the type of the input, and float16 ends
# at 65,504. Two samples of 100 draws from one distribution, all below 1: `kruskal` gives p = 0, `mannwhitneyu` and `wilcoxon` p = 1
# (0.77 and 0.78 in float64), with NumPy's overflow warnings, which many silence, as the only sign; of 300 they give 0 and NaN.
# `ttest_ind` of values of 20 gives t = 0 and p = 1. spearmanr, brunnermunzel and ranksums are right. `astype(float)` first.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q scipy==1.17.1 numpy==2.4.6
cd "$work"
cat >tests.py <<'PYTHON'
import warnings

import numpy as np
import scipy
from scipy import stats

warnings.simplefilter("ignore")


def p(test, n: int, scale: float = 1, seed: int = 1) -> tuple[float, float]:
    """Of the same numbers in float16 and in float64."""
    random = np.random.default_rng(seed)
    samples = [(scale * random.random(n)).astype(np.float16) for _ in range(2)]
    return float(test(*samples).pvalue), float(test(*(sample.astype(float) for sample in samples)).pvalue)


print("scipy", scipy.__version__, "numpy", np.__version__)
expected = {"kruskal": (0, 0), "mannwhitneyu": (1, np.nan), "wilcoxon": (1, np.nan)}
right = ("spearmanr", "brunnermunzel", "ranksums")
for name in (*expected, *right):
    for place, n in enumerate((100, 300)):
        half, double = p(getattr(stats, name), n)
        print(f"{name} of {n}: p {half:.3f} in float16, {double:.3f} in float64")
        if name in right:
            assert abs(half - double) < 1e-3
        else:
            assert 0.05 < double < 0.95 and np.array_equal(half, expected[name][place], equal_nan=True)
half, double = p(stats.ttest_ind, 1000, 80)
print(f"ttest_ind of 1000, values to 80: p {half:.3f} in float16, {double:.3f} in float64")
assert half == 1 and double < 0.95
PYTHON
"$work/env/bin/python" tests.py
