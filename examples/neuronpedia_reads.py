"""Whether sae-dashboard's own classes read what `vn.export(run, "neuronpedia", out)` wrote, and write the same again.

python3 -m venv dashboard && dashboard/bin/pip install --no-deps sae-dashboard numpy
dashboard/bin/python examples/neuronpedia_reads.py OUT
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    """Print a line for every file; stop at the first that differs."""
    # by its file: importing the package would want the model libraries that it pins
    where = Path(str(distribution("sae-dashboard").locate_file("sae_dashboard/neuronpedia/neuronpedia_dashboard.py")))
    spec = importlib.util.spec_from_file_location("neuronpedia_dashboard", where)
    schema = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(schema)  # type: ignore[union-attr]
    for file in sorted(Path(sys.argv[1]).glob("*/batch-*.json")):
        given = json.loads(file.read_text(encoding="utf-8"))
        read = schema.NeuronpediaDashboardBatch(**given)
        again = json.loads(json.dumps(read.to_dict()))
        for mine, theirs in zip(given["features"], again["features"], strict=True):
            lost = {name for name in mine if mine[name] != theirs.get(name)} - {"activations"}
            acts = zip(mine["activations"], theirs["activations"], strict=True)
            if lost or any(a[name] != b.get(name) for a, b in acts for name in a):
                sys.exit(f"{file}: feature {mine['feature_index']} comes back with other {lost or 'activations'}")
        print(f"{file}: {len(read.features)} features of {read.model_id}, layer {read.layer}, set {read.sae_set}")


if __name__ == "__main__":
    main()
