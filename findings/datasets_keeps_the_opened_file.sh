#!/usr/bin/env bash
# Guess: a picture that was opened by Pillow and then changed in place (drawn on, shrunk by `thumbnail`, given an alpha
# channel) goes into a Hugging Face dataset as it is at that moment, as one that was made in memory does.
# Seen (datasets 5.2.0, pillow 13.0.0): as long as Pillow remembers the file's name, the dataset stores the name instead
# of the pixels, and nothing is said. What comes out is the file as it lies on disk: other pixels, another size,
# another mode. Copies (`rotate`, `convert`, `copy`) have no name and are stored as they are.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q datasets==5.2.0 pillow==13.0.0
cd "$work"
cat >store.py <<'PYTHON'
import datasets
import PIL
from PIL import Image, ImageDraw

print("datasets", datasets.__version__, "pillow", PIL.__version__)
Image.new("RGB", (100, 80), "red").save("red.png")


def opened() -> Image.Image:
    return Image.open("red.png")


changed = {"thumbnail": opened(), "drawing": opened(), "alpha": opened(), "drawing on a copy": opened().copy()}
changed["thumbnail"].thumbnail((50, 50))
changed["alpha"].putalpha(10)
for name in ("drawing", "drawing on a copy"):
    ImageDraw.Draw(changed[name]).rectangle((0, 0, 99, 79), fill="blue")
stored = datasets.Dataset.from_list([{"image": image} for image in changed.values()])
seen = {}
for (name, given), row in zip(changed.items(), stored, strict=True):
    before, after = ((i.size, i.mode, i.getpixel((0, 0))) for i in (given, row["image"]))
    print(f"{name:18} given {before} stored {after}")
    seen[name] = after == before
assert seen == {"thumbnail": False, "drawing": False, "alpha": False, "drawing on a copy": True}, seen
PYTHON
"$work/env/bin/python" store.py
