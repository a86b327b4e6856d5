#!/usr/bin/env bash
# Guess: an Arrow IPC file of samples, a record batch each (some lists, strings and a small picture), gets smaller with
# compression="zstd"; writing takes perhaps twice as long, and reading one batch about as long as before.
# Seen (pyarrow 26.0.1): the file gets a fifth larger (1,505,106 bytes, plain 1,249,674), and takes 20 times as long to write and 60
# times as long to read. Every buffer of every column is a zstd frame of its own with a length before it, and is set up for
# itself: about a millisecond a batch of 15 columns, however little is in it. lz4 is larger still, in a third of that time. The same
# rows in batches of 32 take 393,130 bytes and a tenth of the time: compress many rows at once, or not at all.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q pyarrow==26.0.1 numpy==2.4.6
cd "$work"
cat >small.py <<'PYTHON'
import os
import time

import numpy as np
import pyarrow as pa

print("pyarrow", pa.__version__)
rng = np.random.default_rng(0)
ROWS = 400
rows = [
    {
        **{f"values{k}": rng.normal(size=6).astype(np.float32).tolist() for k in range(6)},
        **{f"words{k}": [f"word{int(w)}" for w in rng.integers(0, 50, 5)] for k in range(4)},
        **{f"name{k}": f"sample {i}" for k in range(4)},
        "picture": rng.bytes(600),
    }
    for i in range(ROWS)
]
table = pa.Table.from_pylist(rows).combine_chunks()


def stored(kind, size):
    """Bytes of the file, and CPU seconds to write it and to read all of its batches."""
    file = f"{kind}-{size}.arrow"
    begun = time.process_time()
    with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=kind)) as out:
        for batch in table.to_batches(max_chunksize=size):
            out.write_batch(batch)
    written = time.process_time()
    shard = pa.ipc.open_file(pa.memory_map(file))
    read = [shard.get_batch(i) for i in range(shard.num_record_batches)]
    done = time.process_time()
    assert pa.Table.from_batches(read).equals(table)
    found = os.path.getsize(file), written - begun, done - written
    print(f"{str(kind):5} {size:3} rows a batch: {found[0]:,} bytes, write {found[1]:.3f} s, read {found[2]:.3f} s")
    return found


for kind in (None, "zstd", "lz4"):  # nothing is slow for being the first
    stored(kind, 1)
plain, zstd, lz4, many = (stored(*how) for how in ((None, 1), ("zstd", 1), ("lz4", 1), ("zstd", 32)))
assert zstd[0] > 1.1 * plain[0] and lz4[0] > plain[0]
assert zstd[1] > 5 * plain[1] and zstd[2] > 5 * plain[2]
assert many[0] < plain[0] / 1.5 and many[1] < zstd[1] / 4
PYTHON
"$work/env/bin/python" small.py
