"""Near-duplicate groups on real rows: against comparing all pairs, and what a split without groups would claim.

    python benchmarks/near_duplicates.py --data hs-open-corpus.csv.gz [--sources uk_search_references …] [--most 12000]

First: of all pairs of rows whose word sets (numbers masked) reach the Jaccard threshold, the share that is in one
group; how many pairs the groups join in all; how long both take. Then: the code of the nearest other row (cosine of
TF-IDF on character n-grams) is taken for the answer, once with test rows drawn at random and once by group. Where the
rows hold nomenclature texts the two are not comparable: by group, only traders' rows are judged.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Print the comparison for the rows of the named sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sources", nargs="*", help="values of the column source (default: all rows)")
    parser.add_argument("--most", type=int, default=12_000, help="rows at most: all pairs are compared")
    parser.add_argument("--similarity", type=float, default=0.8)
    arguments = parser.parse_args()
    os.environ.setdefault("HSCODE_PROGRESS", os.devnull)
    frame, parts = prepared(arguments.data, arguments.sources, arguments.most)
    texts, groups = frame["description"].to_list(), frame["group"].to_numpy()
    print(f"{len(texts):,} rows")
    compare(texts, arguments.similarity)
    naive_and_grouped(texts, frame["hs6"].to_list(), groups, parts)


def prepared(data: Path, sources: list[str] | None, most: int) -> tuple[Any, Any]:
    """Rows after ingest, and the part of each by group."""
    import numpy as np
    import polars as pl

    from config.settings import load_settings
    from models.data.ingest import ingest
    from models.data.split import split

    settings = load_settings(assignments=[f"data.sources={json.dumps([{'path': str(data)}])}"])
    with tempfile.TemporaryDirectory() as folder:
        ingest(settings, Path(folder) / "rows")
        split(Path(folder) / "rows", settings, Path(folder) / "parts")
        frames = [pl.read_parquet(Path(folder) / "parts" / f"{name}.parquet") for name in ("train", "valid", "test")]
    frame = pl.concat(part.with_columns(part=pl.lit(i)) for i, part in enumerate(frames))
    frame = frame.filter(pl.col("hs6").is_not_null())
    if sources:
        frame = frame.filter(pl.col("source").is_in(sources))
    if frame.height > most:
        frame = frame.sample(most, seed=1)
    return frame, np.asarray(frame["part"])


def compare(texts: list[str], similarity: float) -> None:
    """Groups against all pairs."""
    import re

    import numpy as np
    from scipy.sparse import csr_matrix

    from models.data.groups import Grouper

    began = time.perf_counter()
    grouper = Grouper(similarity)
    grouper.add(texts)
    groups = grouper.groups()
    ours = time.perf_counter() - began
    began = time.perf_counter()
    word = re.compile(r"[^\W\d_]+|\d+")
    numbers: dict[str, int] = {}
    rows, columns = [], []
    for i, text in enumerate(texts):
        for own in {"0" if w[0].isdigit() else w for w in word.findall(text.casefold())}:
            rows.append(i)
            columns.append(numbers.setdefault(own, len(numbers)))
    matrix = csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(texts), len(numbers)))
    size = np.asarray(matrix.sum(axis=1)).ravel()
    exact = together = 0
    for start in range(0, len(texts), 1000):
        shared = (matrix[start : start + 1000] @ matrix.T).tocoo()
        one, two = shared.row + start, shared.col
        near = (one < two) & (shared.data >= similarity * (size[one] + size[two] - shared.data) - 1e-9)
        exact += int(near.sum())
        together += int((groups[one[near]] == groups[two[near]]).sum())
    plain = time.perf_counter() - began
    counts = np.bincount(groups)
    joined = int((counts * (counts - 1) // 2).sum())
    print(f"pairs with a Jaccard similarity of {similarity} or more: {exact:,}; in one group: {together / exact:.2%}")
    print(f"groups: {np.count_nonzero(counts):,}, the largest {counts.max()} rows; pairs that they join: {joined:,}")
    print(f"seconds: groups {ours:.2f}, all pairs {plain:.2f}")


def naive_and_grouped(texts: list[str], labels: list[str], groups: Any, parts: Any) -> None:
    """Accuracy of the nearest row, with test rows drawn at random and by group."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit_transform(texts)
    own = np.array(labels)
    by_group = parts == 2
    at_random = np.zeros(len(texts), dtype=bool)
    at_random[np.random.default_rng(1).choice(len(texts), by_group.sum(), replace=False)] = True
    for name, test in (("at random", at_random), ("by group", by_group)):
        train = np.flatnonzero(~test)
        nearest = []
        for start in range(0, int(test.sum()), 500):
            rows = np.flatnonzero(test)[start : start + 500]
            nearest.append(train[np.asarray((vectors[rows] @ vectors[train].T).toarray()).argmax(axis=1)])
        answer = own[np.concatenate(nearest)]
        right = [np.mean([a[:n] == b[:n] for a, b in zip(answer, own[test], strict=True)]) for n in (2, 4, 6)]
        crossing = np.isin(groups[test], groups[~test]).mean()
        shown = " / ".join(f"{share:.1%}" for share in right)
        print(f"{test.sum():,} test rows drawn {name}: right {shown} (HS2/4/6); near-duplicate in train {crossing:.1%}")


if __name__ == "__main__":
    main()
