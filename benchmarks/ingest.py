"""Rows a second and peak memory of ingest against the plain way, in one run: pandas and datasketch's MinHashLSH.

    python benchmarks/ingest.py --rows 10000 100000 1000000
    python benchmarks/ingest.py --rows 5000000 --only ours

The rows are generated (a long-tailed vocabulary of made-up words, numbers, exact duplicates, planted near-duplicates,
some broken rows): figures say how fast, how much memory and which planted pairs are found, nothing about real text.
Both ways read the same csv, clean texts, check codes, merge exact duplicates, group near-duplicates and write parquet,
each in a process of its own. The plain way has a setting that favours it: 64 permutations (the default is 128).
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CODES = 5000
SEED = 5
KINDS = ("number", "order", "letter", "plural", "word", "space")


def generate(rows: int, path: Path, pairs: Path) -> None:
    """A csv of `rows` rows, and some planted pairs as (kind, text, near-duplicate of it)."""
    import numpy as np

    chance, dice = np.random.default_rng(SEED), random.Random(SEED)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il", "on", "ut")]
    words = list(dict.fromkeys("".join(dice.choices(syllables, k=dice.choice((2, 3, 3, 4)))) for _ in range(40_000)))
    fresh = int(rows * 0.55)
    ranks = np.minimum(chance.zipf(1.25, size=fresh * 9), len(words) * 50) * 7919 % len(words)
    lengths = chance.integers(2, 10, size=fresh)
    numbers = chance.integers(1, 999, size=fresh)
    texts, at = [], 0
    for i in range(fresh):
        own = [words[k] for k in ranks[at : at + lengths[i]]]
        at += int(lengths[i])
        if numbers[i] % 3 == 0:
            own.append(f"{numbers[i]} {('cm', 'ml', 'kg', 'pcs')[numbers[i] % 4]}")
        texts.append(" ".join(own))
    codes = [f"{chance.integers(1, 77):02}{k % 100:02}{k % 90 + 10:02}" for k in range(CODES)]
    with path.open("w", encoding="utf-8") as file, pairs.open("w", encoding="utf-8") as planted:
        file.write("description,code\n")
        for i in range(rows):
            pick = dice.random()
            text = texts[i % fresh] if pick < 0.7 else texts[dice.randrange(fresh)]
            if pick < 0.15:
                text = text.title()
            elif pick >= 0.7:
                kind = KINDS[i % len(KINDS)]
                other = vary(text, kind, dice, words)
                if i // len(KINDS) % max(1, rows // 20_000) == 0 and other != text:
                    planted.write(json.dumps([kind, text, other]) + "\n")
                text = other
            code = codes[hash_of(text) % CODES]
            if i % 500 == 499:
                code = ("", "12x456", "9999")[i % 3]
            file.write(f"{text},{code}\n")


def hash_of(text: str) -> int:
    """Something of the text that its variants mostly share."""
    return sum(map(ord, text.lower()[:4]))


def vary(text: str, kind: str, dice: random.Random, words: list[str]) -> str:
    """A near-duplicate of `text`."""
    own = text.split()
    if kind == "number":
        return " ".join(str(dice.randrange(1, 999)) if word.isdigit() else word for word in own)
    if kind == "order":
        dice.shuffle(own)
    elif kind == "plural":
        k = dice.randrange(len(own))
        own[k] += "s" if own[k].isalpha() and own[k][-1] != "s" else ""
    elif kind == "space" and len(own) > 1:
        own[:2] = [own[0] + "-" + own[1]]
    elif kind == "word" and len(own) >= 5:
        own.insert(dice.randrange(len(own)), words[dice.randrange(2000)])
    elif kind == "letter":
        k = max(range(len(own)), key=lambda i: len(own[i]))
        if len(own[k]) >= 7:
            j = dice.randrange(1, len(own[k]) - 1)
            own[k] = (
                own[k][:j] + dice.choice((own[k][j + 1] + own[k][j], "", dice.choice("aeioubst"))) + own[k][j + 1 :]
            )
    return " ".join(own)


def ours(path: Path, out: Path) -> dict[str, int]:
    """hscode's ingest."""
    from config.settings import Data, Settings, Source
    from models.data.ingest import ingest

    report = ingest(Settings(data=Data(sources=(Source(path=str(path)),))), out)
    return {"kept": report.kept, "merged": report.merged, "quarantined": report.quarantined, "groups": report.groups}


def plain(path: Path, out: Path) -> dict[str, int]:
    """What one would write first: a data frame, and datasketch for the near-duplicates."""
    import html
    import re
    import unicodedata

    import numpy as np
    import pandas as pd
    from datasketch import MinHash, MinHashLSH

    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    read = len(frame)

    def clean(text: str) -> str:
        text = unicodedata.normalize("NFKC", html.unescape(text))
        return re.sub(r"\s+", " ", re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)).strip()

    frame["description"] = frame["description"].map(clean)
    frame["code"] = frame["code"].str.replace(r"[.\s]", "", regex=True)
    frame = frame[frame["code"].str.fullmatch(r"\d{6,10}") & (frame["description"] != "")].copy()
    valid = len(frame)
    frame["hs6"] = frame["code"].str[:6]
    frame["key"] = frame["description"].str.lower()
    votes = frame.groupby(["key", "hs6"], sort=False).size().reset_index(name="rows")
    best = votes.sort_values("rows", ascending=False, kind="stable").drop_duplicates("key")
    frame = frame.drop_duplicates("key").drop(columns="hs6").merge(best[["key", "hs6"]], on="key")
    words = re.compile(r"[^\W\d_]+|\d+")
    masked = [{"0" if w[0].isdigit() else w for w in words.findall(key)} for key in frame["key"]]
    lsh = MinHashLSH(threshold=0.8, num_perm=64)
    parent = list(range(len(frame)))

    def first(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, own in enumerate(masked):
        sketch = MinHash(num_perm=64, seed=1)
        sketch.update_batch([w.encode() for w in own])
        for j in lsh.query(sketch):
            a, b = first(i), first(j)
            parent[max(a, b)] = min(a, b)
        lsh.insert(i, sketch, check_duplication=False)
    frame["group"] = np.array([first(i) for i in range(len(frame))])
    out.mkdir()
    frame.drop(columns="key").to_parquet(out / "rows.parquet")
    kept = len(frame)
    groups = int(frame["group"].nunique())
    return {"kept": kept, "merged": valid - kept, "quarantined": read - valid, "groups": groups}


def found(rows: Path, pairs: Path) -> dict[str, float]:
    """Share of the planted pairs that are in one group, by kind."""
    import polars as pl

    frame = pl.read_parquet(rows, columns=["description", "group"])
    planted = [json.loads(line) for line in pairs.open(encoding="utf-8")]
    wanted = pl.Series([text.lower() for _, *both in planted for text in both]).unique()
    keyed = frame.with_columns(key=pl.col("description").str.to_lowercase()).filter(
        pl.col("key").is_in(wanted.implode())
    )
    group = dict(zip(keyed["key"], keyed["group"], strict=True))
    hits: dict[str, list[bool]] = {}
    for kind, one, two in planted:
        if one.lower() in group and two.lower() in group and one.lower() != two.lower():
            hits.setdefault(kind, []).append(group[one.lower()] == group[two.lower()])
    sizes = frame["group"].value_counts()["count"]
    shares = {kind: round(sum(own) / len(own), 4) for kind, own in sorted(hits.items())}
    return {**shares, "largest_group": int(sizes.sort()[-1])}


def run(way: str, path: Path, pairs: Path, folder: Path) -> dict[str, Any]:
    """One way in a process of its own: seconds, rows a second, peak memory, counts, planted pairs found."""
    out = folder / way
    environment = {**os.environ, "HSCODE_PROGRESS": os.devnull}
    command = [sys.executable, __file__, "--one", way, str(path), str(out)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["found"] = found(out / "rows.parquet", pairs)
    return result


def main() -> None:
    """Print one line a size and way, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--only", choices=("ours", "plain"))
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--out", type=Path, help="write the results there as JSON")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        way, path, out = arguments.one
        began = time.perf_counter()
        counts = {"ours": ours, "plain": plain}[way](Path(path), Path(out))
        seconds, usage = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        result = {
            "seconds": round(seconds, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_mib": round(usage.ru_maxrss / 1024),
        }
        print(json.dumps({**result, **counts}))
        return
    results = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="ingest-") as folder:
            path, pairs = Path(folder) / "rows.csv", Path(folder) / "pairs.jsonl"
            generate(rows, path, pairs)
            print(f"{rows:,} rows, {path.stat().st_size / 1e6:.1f} MB", flush=True)
            entry: dict[str, Any] = {"rows": rows}
            for way in ("plain", "ours") if arguments.only is None else (arguments.only,):
                entry[way] = one = run(way, path, pairs, Path(folder))
                seconds, cpu, peak = (one.pop(key) for key in ("seconds", "cpu_seconds", "peak_mib"))
                print(f"  {way:<5} {seconds} s ({cpu} s of CPU), {rows / seconds:,.0f} rows/s, {peak} MiB at most")
                print(f"        {json.dumps(one)}", flush=True)
                one.update(seconds=seconds, cpu_seconds=cpu, peak_mib=peak)
            if arguments.only is None:
                for what in ("seconds", "cpu_seconds", "peak_mib"):
                    entry[f"ratio_{what}"] = round(entry["plain"][what] / entry["ours"][what], 1)
                print(
                    f"  plain / ours: {entry['ratio_seconds']} in time, {entry['ratio_cpu_seconds']} in CPU time, "
                    f"{entry['ratio_peak_mib']} in memory",
                    flush=True,
                )
            results.append(entry)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
