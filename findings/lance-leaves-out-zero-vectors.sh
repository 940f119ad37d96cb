#!/bin/sh
# version: pylance 14.0.2, pyarrow 26.0.1, numpy 2.4.6
# guess: the nearest ten of ten rows are ten rows; a vector of zeros has no angle and comes last, or is an error.
# what happens: metric="cosine" leaves the row of zeros out and returns nine, without a word; metric="l2" returns it,
#     and leaves out a row with NaN.
# why it matters: features of reduced models go into such a store. A zero vector (an image of which every patch was
#     dropped, an empty pool) is never found, and recall against a list of all rows is short by the rows that are
#     missing.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pylance==14.0.2 pyarrow==26.0.1
"$folder/venv/bin/python" - <<'EOF'
import tempfile
from importlib.metadata import version

import lance
import numpy as np
import pyarrow as pa

print("pylance", version("pylance"), "pyarrow", version("pyarrow"))
vectors = np.ones((10, 8), np.float32)
vectors[3] = 0
vectors[7] = np.nan
table = pa.table({"id": np.arange(10), "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), 8)})
with tempfile.TemporaryDirectory() as folder:
    rows = lance.write_dataset(table, f"{folder}/features")
    found = {}
    for metric in ("l2", "cosine"):
        query = {"column": "vector", "q": np.ones(8, np.float32), "k": 10, "metric": metric}
        found[metric] = sorted(rows.to_table(nearest=query)["id"].to_pylist())
        print(metric, "asked for 10, found", found[metric])
raise SystemExit(found != {"l2": [0, 1, 2, 3, 4, 5, 6, 8, 9], "cosine": [0, 1, 2, 4, 5, 6, 8, 9]})
EOF
