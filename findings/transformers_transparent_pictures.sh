#!/usr/bin/env bash
# Guess: the image processor of CLIP (LLaVA-1.5's eyes) does with a transparent picture what Pillow's convert("RGB") does,
# in transformers 5 as in 4: it shows the colours that transparency hides.
# Seen (pillow 13.0.0): so it is with transformers 4.57.3. transformers 5.24.0 lays the picture on white. One PNG gives one model other
# pixels by the release, so activations measured with one and looked up with the other are of two pictures; whoever
# converts pictures himself before the processor gets the old ones with both.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >see.py <<'PYTHON'
import io

import numpy as np
import transformers
from PIL import Image

picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))  # red that nobody sees
picture.paste((0, 0, 255, 255), (0, 0, 8, 4))  # blue that everybody sees
palette = io.BytesIO()
picture.quantize(4).save(palette, "PNG")
kinds = {"RGBA": picture, "grey with alpha": picture.convert("LA"), "palette": Image.open(palette)}
cls = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
processor = cls(do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False)
hidden = {
    kind: np.asarray(processor([image], return_tensors="np")["pixel_values"])[0, :, 7, 7].astype(int).tolist()
    for kind, image in kinds.items()
}
print("transformers", transformers.__version__, cls.__name__, "what is transparent becomes", hidden)
white = {kind: [255, 255, 255] for kind in kinds}
shown = {kind: list(image.convert("RGB").getpixel((7, 7))) for kind, image in kinds.items()}
assert hidden == (shown if transformers.__version__.startswith("4.") else white), (hidden, shown)
PYTHON
for version in 4.57.3 5.24.0; do
  python3 -m venv "env-$version"
  "env-$version/bin/pip" install -q transformers==$version pillow==13.0.0 numpy torch==2.13.0
  "env-$version/bin/python" see.py 2>/dev/null
done
