#!/usr/bin/env bash
# Guess: `pip install sae-lens transformer-lens==4.3.0` gives a pair that works together, or is refused by pip.
# Seen (November 2026): the newest sae-lens (6.54.12) asks for transformer-lens below 4, and pip goes back, without a word, to
# 6.51.1, which sets no bound. `pip check` finds nothing wrong, and `import sae_lens` fails: it wants
# transformer_lens.HookedTransformer, which 4.0 removed. Dictionaries of SAELens cannot be loaded by it where a
# TransformerLens 4 is; they have to be read from their files, or in another environment.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
pip="$work/env/bin/pip"
"$pip" download -q --no-deps -d "$work/newest" sae-lens==6.54.12
python3 - "$work"/newest/sae_lens-*.whl <<'PYTHON'
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))).decode()
bound = next(line for line in metadata.splitlines() if line.lower().startswith("requires-dist: transformer-lens"))
print("sae-lens 6.54.12:", bound)
assert "<4" in bound
PYTHON
"$pip" install -q torch==2.13.0 transformer-lens==4.3.0 sae-lens==6.51.1
"$pip" check | grep -E "sae-lens|transformer-lens" && exit 1
error=$("$work/env/bin/python" -c "import sae_lens" 2>&1) && exit 1
echo "sae-lens 6.51.1, transformer-lens 4.3.0: $(tail -1 <<<"$error")"
grep -q "No module named 'transformer_lens.HookedTransformer'" <<<"$error"
