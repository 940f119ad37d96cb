#!/bin/sh
# version: mlxtend 0.25.0, statsmodels 0.15.0, numpy 2.4.6
# guess: two models that answer every image alike are not told apart by McNemar's test: statistic 0, p-value 1. The
#     more equally the differing answers are shared, the closer the p-value is to 1.
# what happens: mlxtend's mcnemar (by default) and statsmodels' mcnemar(exact=False) correct for continuity before they
#     divide, so no differing answer gives (0 - 1)^2 / 0: statistic infinity and p-value 0, with NumPy's warning only.
#     Six differing answers each way give 0.77, and one differing answer gives 1. The exact tests of both give 1.
# why it matters: this is the test for a reduced model against its original on the same images. A weak reduction changes
#     no answer on a few hundred images, and a script that asks whether p is below 0.05 then reports the strongest
#     difference there is. Use exact=True.
# known: the same formula raised ZeroDivisionError in evaluate (huggingface/evaluate#795, closed).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 mlxtend==0.25.0 statsmodels==0.15.0
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import numpy as np
from mlxtend.evaluate import mcnemar, mcnemar_table
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels

print("mlxtend", version("mlxtend"), "statsmodels", version("statsmodels"))
labels = np.arange(100) % 10
original = np.where(np.arange(100) < 80, labels, labels + 1)
seen = []
for only_reduced_right, only_original_right in ((0, 0), (1, 0), (6, 6)):
    reduced = original.copy()
    reduced[80 : 80 + only_reduced_right] -= 1
    reduced[:only_original_right] += 1
    table = mcnemar_table(labels, original, reduced)
    values = [
        mcnemar(table)[1],
        mcnemar_of_statsmodels(table, exact=False).pvalue,
        mcnemar(table, exact=True)[1],
        mcnemar_of_statsmodels(table, exact=True).pvalue,
    ]
    print(f"{only_original_right} and {only_reduced_right} answers differ: p-values {np.round(values, 2)} (two exact)")
    seen.append(np.round(values, 2).tolist())
raise SystemExit(seen != [[0, 0, 1, 1], [1, 1, 1, 1], [0.77, 0.77, 1, 1]])
EOF
