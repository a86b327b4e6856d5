"""Scan and classify real photographs with any model, by default with the embedded one.

    python examples/photographs.py runs/photographs

The photographs come inside scikit-image and scikit-learn. The embedded model knows coloured shapes and nothing else:
what it says of a photograph is wrong, and shows only that any image goes the whole way. With a real model
(`--model llava-hf/llava-1.5-7b-hf`) the same lines do the real thing.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import vlm_neurons as vn

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg",
         "retina.jpg", "china.jpg", "flower.jpg", "brick.png", "grass.png", "gravel.png", "coins.png", "moon.png")  # fmt: skip


def photographs() -> list[Path]:
    """Paths of the photographs in the installed wheels."""
    folders = []
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{package} is missing: pip install scikit-image scikit-learn")
        folders.append(Path(spec.submodule_search_locations[0]) / inside)
    return [folder / name for folder in folders for name in NAMES if (folder / name).is_file()]


def main() -> None:
    """Describe, scan, classify, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="run directory")
    parser.add_argument("--model", default="tiny-llava-scenes")
    args = parser.parse_args()
    model = vn.HookedVLM.from_pretrained(args.model)
    data = vn.ImageTextData.from_samples([{"image": path, "name": path.name} for path in photographs()])
    run = vn.scan(model, data, site=["gate", "projector"], out=args.out)
    for sample in run.samples.itertuples():
        print(f"{sample.name}: {sample.response}")
    table = vn.classify(run)
    run.save(table)
    print(table.groupby(["site", "label"]).size().to_string())
    print(vn.report(run, out=run, model=model, data=data))


if __name__ == "__main__":
    main()
