"""False drift alarms on unshifted real text, and texts needed to notice each of five shifts, beside two peers.

    python -m benchmarks.drift --data hs-open-corpus.csv.gz [--peers VENV/bin/python]

Texts are a file's curated terms (`--source`) split at random: some for the vocabulary, 1,000 for the reference, the
rest is live. Answers are the known codes. *Unshifted*: 30 days of live texts drawn at random in requests of 1 to 20
texts, every eighth one text sent again and again; the settings' window is looked at every half hour, and alarms where
the largest lower bound of a feature passes the rule's threshold. *Shifts*: the least number of texts in a window with
which 8 in 10 windows alarm. The peers (`benchmarks/peers/drift_detectors.py`, which says how to install them) see the
same windows, fewer of them.
"""

import argparse
import json
import random
import re
import subprocess
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml

from config.settings import Monitor
from models.reference import text_reference
from models.text.encode import WordEncoder
from models.text.normalise import words
from serving.control.monitor.sketches import Sketch, Told
from serving.control.monitor.windows import drift_of

DAYS, LOOKS_A_DAY = 30, 48
SIZES = (25, 50, 100, 200, 400, 800, 1600)
WANTED = 0.8
CYRILLIC = dict(zip("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшхыз", strict=True))


class Row(NamedTuple):
    """A text and its chapter."""

    text: str
    chapter: str


Window = list[list[Row]]
"""Requests."""


def threshold() -> float:
    """The drift rule's, from manifests/monitoring/rules.yaml."""
    rules = yaml.safe_load((Path(__file__).parents[1] / "manifests" / "monitoring" / "rules.yaml").read_text())
    found = [r for group in rules["groups"] for r in group["rules"] if r.get("alert") == "HscodeDriftSustained"]
    return float(re.findall(r"> ([\d.]+)", found[0]["expr"])[0])


class Ours:
    """The monitor's own sketches and bounds."""

    def __init__(self, vocabulary: list[Row], reference: list[Row], settings: Monitor) -> None:
        known = sorted({word for row in vocabulary for word in words(row.text)})
        self.encoder = WordEncoder(known, buckets=64, ngrams=(3, 4), max_tokens=32)
        chapters = Counter(row.chapter for row in reference)
        self.reference = text_reference([row.text for row in reference], self.encoder) | {
            "chapters": {chapter: count / len(reference) for chapter, count in chapters.items()}
        }
        self.settings, self.threshold = settings, threshold()

    def sketch(self, requests: Window) -> Sketch:
        """Of some requests."""
        made = Sketch()
        for request in requests:
            made.add_texts([row.text for row in request], self.encoder.knows)
            made.add_answers([Told("answered", "", 0.0, row.chapter, None) for row in request])
        return made

    def bound(self, parts: list[Sketch]) -> tuple[float, str]:
        """The largest lower bound, and whose it is."""
        found = drift_of(parts, self.reference, self.settings.confidence)
        return max(((drift.lower, feature) for feature, drift in found.items()), default=(0.0, ""))

    def alarms(self, window: Window) -> bool:
        """Whether a window given as requests alarms."""
        count = self.settings.window_parts
        parts = [self.sketch(window[i * len(window) // count : (i + 1) * len(window) // count]) for i in range(count)]
        return self.bound(parts)[0] > self.threshold


def requests_of(rows: list[Row], count: int, rng: random.Random) -> Window:
    """`count` texts in requests of 1 to 20, every eighth of one text sent again and again."""
    made: Window = []
    while count > 0:
        size = min(count, rng.choice((1, 1, 1, 1, 2, 3, 5, 20)))
        made.append([rng.choice(rows)] * size if rng.random() < 1 / 8 else rng.choices(rows, k=size))
        count -= size
    return made


def unshifted(ours: Ours, live: list[Row], texts_an_hour: int, rng: random.Random) -> dict[str, Any]:
    """Looks in 30 days, and how many alarmed."""
    a_part = ours.settings.window_seconds / ours.settings.window_parts
    parts: deque[Sketch] = deque(maxlen=ours.settings.window_parts)
    look_every = 86_400 / LOOKS_A_DAY / a_part
    looks = alarms = 0
    largest = 0.0
    for number in range(int(DAYS * 86_400 / a_part)):
        parts.append(ours.sketch(requests_of(live, round(rng.expovariate(1) * texts_an_hour * a_part / 3600), rng)))
        if number % look_every < 1 and len(parts) == parts.maxlen:
            bound, _ = ours.bound(list(parts))
            looks += 1
            alarms += bound > ours.threshold
            largest = max(largest, bound)
    return {"texts_an_hour": texts_an_hour, "looks": looks, "alarms": alarms, "largest_bound": round(largest, 4)}


def shifts(live: list[Row], new: list[Row], other: list[Row]) -> dict[str, Callable[[int, random.Random], Window]]:
    """Name → windows of so many texts."""

    def mixed(share: float, changed: Callable[[random.Random], Row]) -> Callable[[int, random.Random], Window]:
        def window(count: int, rng: random.Random) -> Window:
            found = requests_of(live, count, rng)
            return [[changed(rng) if rng.random() < share else row for row in request] for request in found]

        return window

    def cyrillic(rng: random.Random) -> Row:
        row = rng.choice(live)
        return Row("".join(CYRILLIC.get(letter, letter) for letter in row.text.lower()), row.chapter)

    def cut(rng: random.Random) -> Row:
        row = rng.choice(live)
        return Row(row.text[:6], row.chapter)

    clothes = [row for row in live if row.chapter in ("61", "62", "64")]
    return {
        "30 % new kinds of goods (chapters 84, 85)": mixed(0.3, lambda rng: rng.choice(new)),
        "20 % in another script": mixed(0.2, cyrillic),
        "half of it parcel texts": mixed(0.5, lambda rng: rng.choice(other)),
        "30 % more clothes and shoes": mixed(0.3, lambda rng: rng.choice(clothes)),
        "half of it cut to six characters": mixed(0.5, cut),
    }


def needed(shares: dict[int, float]) -> int | None:
    """The least size from which on the wanted share alarms."""
    found = None
    for size in sorted(shares, reverse=True):
        if shares[size] < WANTED:
            break
        found = size
    return found


def peers_on(python: Path, reference: list[Row], windows: list[list[Row]]) -> list[dict[str, Any]]:
    """What the peers find in each window."""
    tables = [
        {"texts": [r.text for r in rows], "chapters": [r.chapter for r in rows]} for rows in (reference, *windows)
    ]
    done = subprocess.run(
        [str(python), str(Path(__file__).parent / "peers" / "drift_detectors.py")],
        input="".join(json.dumps(table) + "\n" for table in tables), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the peers failed: {done.stderr.strip().splitlines()[-1]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="csv with description, hs6, source")
    parser.add_argument("--source", default="uk_search_references")
    parser.add_argument("--other", default="uk_extra_references", help="source of the parcel texts")
    parser.add_argument("--hourly", type=int, nargs="*", default=[20, 100, 1000], help="unshifted texts an hour")
    parser.add_argument("--peers", type=Path, help="python with evidently and alibi-detect")
    parser.add_argument("--repeats", type=int, default=20, help="windows of each size")
    parser.add_argument("--peer-repeats", type=int, default=5)
    parser.add_argument("--peer-windows", type=int, default=40, help="unshifted windows for the peers")
    options = parser.parse_args()
    frame = pl.read_csv(options.data, schema_overrides={"code": pl.String, "hs6": pl.String})

    def rows(source: str) -> list[Row]:
        some = frame.filter((pl.col("source") == source) & pl.col("hs6").is_not_null()).select("description", "hs6")
        return [Row(text, code.zfill(6)[:2]) for text, code in some.iter_rows()]

    rng = random.Random(7)
    found = rows(options.source)
    rng.shuffle(found)
    new = [row for row in found if row.chapter in ("84", "85")]
    old = [row for row in found if row.chapter not in ("84", "85")]
    third = (len(old) - 1000) // 2
    vocabulary, reference, live = old[:third], old[third : third + 1000], old[third + 1000 :]
    ours = Ours(vocabulary, reference, Monitor())
    print(f"{len(vocabulary)} texts for the vocabulary, {len(reference)} for the reference, {len(live)} live")
    for texts_an_hour in options.hourly:
        print("unshifted", json.dumps(unshifted(ours, live, texts_an_hour, rng)), flush=True)

    spent: dict[str, list[float]] = defaultdict(list)
    windows: list[tuple[str, int, Window]] = []
    table: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, window in shifts(live, new, rows(options.other)).items():
        for size in SIZES:
            made = [window(size, rng) for _ in range(options.repeats)]
            began = time.perf_counter()
            table[name]["monitor"][size] = sum(map(ours.alarms, made)) / len(made)
            spent["monitor"].append((time.perf_counter() - began) / len(made))
            windows += [(name, size, one) for one in made[: options.peer_repeats]]
    if options.peers:
        calm: list[tuple[str, int, Window]] = []
        for size in (200, 1600):
            calm += [("unshifted", size, requests_of(live, size, rng)) for _ in range(options.peer_windows // 2)]
        everything = calm + windows
        verdicts = peers_on(options.peers, reference, [[r for q in one for r in q] for _, _, one in everything])
        counted: dict[tuple[str, int, str], list[bool]] = defaultdict(list)
        for (name, size, _), verdict in zip(everything, verdicts, strict=True):
            for detector, drifts in verdict["found"].items():
                counted[(name, size, detector)].append(drifts)
            for detector, seconds in verdict["seconds"].items():
                spent[detector].append(seconds)
        for (name, size, detector), drifts_ in counted.items():
            if name == "unshifted":
                print(f"unshifted, {size} texts a window: {detector} alarms in {sum(drifts_)} of {len(drifts_)}")
            else:
                table[name][detector][size] = sum(drifts_) / len(drifts_)
        same = [(size, ours.alarms(one)) for _, size, one in calm]
        print(f"unshifted, the same {len(same)} windows: monitor alarms in {sum(alarm for _, alarm in same)}")
    for name, by_detector in table.items():
        told = {detector: needed(shares) for detector, shares in by_detector.items()}
        print(f"{name}: " + ", ".join(f"{d} {n if n else f'more than {SIZES[-1]}'}" for d, n in told.items()))
    print("milliseconds a window: " + ", ".join(f"{d} {1e3 * sum(s) / len(s):.0f}" for d, s in spent.items()))


if __name__ == "__main__":
    main()
