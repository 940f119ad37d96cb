#!/bin/sh
# version: hnswlib 0.8.0, usearch 2.26.6, faiss-cpu 1.15.1, numpy 2.4.6
# guess: one row of zeros among 2,000 features is one row that no query wants. The others are found as before: each is
#     its own nearest neighbour, at distance 0.
# what happens: in HNSW graphs of 16 links with squared distances, a search for a stored row finds it in 99 % of the
#     cases without zeros. With a row of zeros that is added first, hnswlib and usearch find 11 to 12 %, and with 20 such
#     rows faiss finds 14 % too. A search as wide as a quarter of the index (500) finds hardly more. The later the row is
#     added, the less is lost (hnswlib: 16 % are found if it is row 100, 36 % at 500, 60 % at 1,000, all if it is the
#     last): the rows that come after it are hidden. A likely reason: zero is nearer to each of these rows than they are
#     to one another, and the graph drops a link to a row if a row that is already linked is nearer to it. faiss with 32
#     links finds 97 % or more. Rows that form clusters or share a large mean suffer little.
# why it matters: features of reduced models go into such an index. An image of which every patch was dropped, or an
#     empty pool, is a zero vector, and one that comes early can make the index lose most of the others.
# known: nmslib/hnswlib#263 and qdrant/qdrant#10239 (mended there) are on copies of a row; nothing found on zeros.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 hnswlib==0.8.0 usearch==2.26.6 faiss-cpu==1.15.1
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import faiss
import hnswlib
import numpy as np
from usearch.index import Index

print("hnswlib", version("hnswlib"), "usearch", version("usearch"), "faiss", faiss.__version__)
faiss.omp_set_num_threads(1)
seen = {}
for zeros in (0, 1, 20):
    rows = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    rows[np.arange(zeros) * 100] = 0
    others = np.flatnonzero(rows.any(1))
    exact = faiss.IndexFlatL2(64)
    exact.add(rows)
    found = {"exact": exact.search(rows[others], 1)[1]}
    for width in (64, 500):
        graph = hnswlib.Index("l2", 64)
        graph.init_index(2000, M=16)
        graph.add_items(rows, num_threads=1)
        graph.set_ef(width)
        found[f"hnswlib {width}"] = graph.knn_query(rows[others], 1, num_threads=1)[0]
        graph = Index(ndim=64, metric="l2sq", dtype="f32", connectivity=16, expansion_search=width)
        graph.add(np.arange(2000), rows, threads=1)
        found[f"usearch {width}"] = graph.search(rows[others], 1, threads=1).keys
        for links in (16, 32):
            graph = faiss.IndexHNSWFlat(64, links)
            graph.add(rows)
            graph.hnsw.efSearch = width
            found[f"faiss {links} links {width}"] = graph.search(rows[others], 1)[1]
    seen[zeros] = {name: float((np.asarray(nearest).ravel() == others).mean()) for name, nearest in found.items()}
    print(f"{zeros} rows of zeros, found of the others:", {name: round(share, 3) for name, share in seen[zeros].items()})
few = [share for name, share in seen[20].items() if "32 links" not in name and name != "exact"]
fine = min(seen[0].values()) > 0.98 and seen[20]["exact"] == 1 and seen[20]["faiss 32 links 64"] > 0.9
raise SystemExit(not (fine and max(few) < 0.5 and seen[1]["hnswlib 500"] < 0.5))
EOF
