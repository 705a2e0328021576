"""Our models against what others would use, on one split, in one run.

    python benchmarks/accuracy.py --data hs-open-corpus.csv.gz --nomenclature hs2022-nomenclature.csv.gz \\
        [--config config/full.yaml] [--kinds textcnn svc] [--peers knn svc fasttext hmrc] [--encoder FOLDER] \\
        [--hmrc-encoder FOLDER] [--seeds 17 18 19] [--bundle NAME=FOLDER …] [--parts FOLDER] [--work FOLDER]

All learn from the same training part of the grouped split; figures are shares of the test part's trader-style rows
(sources of kind given or corrected) with a right answer, as a mean over seeds. `--bundle` adds a model trained before
on the same parts (checked by its data hash); `--parts` takes a split made before; `--work` keeps what was trained and
judged, and a run that was stopped goes on from there. Seconds of training (of what this command trained) and
milliseconds of one text (on one thread, median of 100) are CPU time, into which other work on the machine does not
count; the price is that of a million answers by the price table of the settings. Nothing here is chosen by the test
part.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Line:
    """One model's figures; lists have one entry a seed."""

    name: str
    top1: list[tuple[float, float, float]] = field(default_factory=list)
    top5: list[float] = field(default_factory=list)
    answered: list[tuple[float, float, float]] = field(default_factory=list)
    """Share of rows answered, share answered at four digits or more, share of given answers that are right."""
    seconds: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    size: int = 0


def main() -> None:
    """Train what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--nomenclature", type=Path)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "config" / "full.yaml")
    parser.add_argument("--parts", type=Path, help="folder of a split step")
    parser.add_argument("--work", type=Path, help="folder that keeps what is finished")
    parser.add_argument("--kinds", nargs="*", help="our kinds to train (default: those of the settings)")
    parser.add_argument("--peers", nargs="*", default=["knn", "svc", "fasttext", "hmrc"])
    parser.add_argument("--encoder", help="models.encoder.source")
    parser.add_argument("--hmrc-encoder", help="folder of all-mpnet-base-v2; without it HMRC's network is left out")
    parser.add_argument("--bundle", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--seeds", nargs="*", type=int, default=[17])
    parser.add_argument("--set", nargs="*", default=[], dest="assignments")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    os.environ.setdefault("HSCODE_PROGRESS", os.devnull)
    with tempfile.TemporaryDirectory() as folder:
        print_table(*measured(arguments, arguments.work or Path(folder)), arguments.json)


def measured(arguments: argparse.Namespace, work: Path) -> tuple[list[Line], dict[str, Any], Any]:
    """All lines, what the figures are of, and the settings."""
    import polars as pl

    from config.settings import load_settings
    from models.bundle import Bundle
    from models.data.ingest import ingest
    from models.data.split import split
    from models.text.embedding import train_embedding
    from models.training import load_materials, train_bundle

    assignments = list(arguments.assignments)
    if arguments.data:
        assignments.append(f"data.sources={json.dumps([{'path': str(arguments.data)}])}")
    if arguments.nomenclature:
        assignments.append(f"nomenclature.path={arguments.nomenclature}")
    if arguments.encoder:
        assignments.append(f"models.encoder.source={arguments.encoder}")
    settings = load_settings(arguments.config, {}, assignments)
    parts = arguments.parts
    if parts is None:
        parts = work / "parts"
        if not parts.exists():
            ingest(settings, work / "rows")
            split(work / "rows", settings, parts)
    frame = pl.read_parquet(parts / "test.parquet").filter(pl.col("label_kind").is_in(["given", "corrected"]))
    about = json.loads((parts / "split.json").read_text())
    materials = load_materials("peers", parts, None, settings)
    about |= {
        "classes": len(materials.levels.codes[6]),
        "judged": frame.height,
        "sources": sorted(set(frame["source"])),
    }
    lines = []
    for name in arguments.peers:
        if name != "hmrc" or arguments.hmrc_encoder:
            file = work / f"peer-{name}-{about['data_hash'][:12]}-{arguments.seeds[0]}.json"
            lines.append(kept_peer(name, materials, frame, arguments, file))
            print(f"# {lines[-1].name}: done", flush=True)
    kinds = settings.models.trained if arguments.kinds is None else tuple(arguments.kinds)
    os.environ["HSCODE_WORK"] = str(work / "checkpoints")
    if kinds and not (work / "embedding").exists():
        train_embedding(parts, settings, work / "embedding")
    own: dict[str, Line] = {}
    for seed in arguments.seeds if kinds else ():
        members = {}
        for kind in kinds:
            out, spent = work / f"{kind}-{seed}", work / f"{kind}-{seed}.seconds"
            if not out.exists():
                began = cpu_seconds()
                train_bundle(kind, parts, work / "embedding", settings, out, seed=seed, members=members)
                spent.write_text(f"{cpu_seconds() - began:.1f}", encoding="utf-8")
            if kind != "pool":
                members[kind] = out
            bundle = Bundle.load(out)
            if (bundle.card["settings_hash"], bundle.card["data_hash"]) != (settings.digest(), about["data_hash"]):
                raise SystemExit(f"{out}: trained with other settings or on other rows; take another --work")
            line = own.setdefault(kind, Line(f"hscode {kind}"))
            judge_bundle(line, bundle, frame)
            if spent.exists():
                line.seconds.append(float(spent.read_text(encoding="utf-8")))
            print(f"# hscode {kind}, seed {seed}: done", flush=True)
    for given in arguments.bundle:
        name, _, path = given.partition("=")
        bundle = Bundle.load(path)
        if bundle.card["data_hash"] != about["data_hash"]:
            raise SystemExit(f"{path}: trained on other rows than {parts}")
        own[name] = Line(f"hscode {name}")
        judge_bundle(own[name], bundle, frame)
    return [*lines, *own.values()], about, settings


def kept_peer(name: str, materials: Any, frame: Any, arguments: argparse.Namespace, file: Path) -> Line:
    """A peer's line from `file` where an earlier run left it, else fitted, judged and left there."""
    if file.exists():
        return Line(**json.loads(file.read_text(encoding="utf-8")))
    line = peer(name, materials, frame, arguments)
    file.write_text(json.dumps(vars(line)), encoding="utf-8")
    return line


def peer(name: str, materials: Any, frame: Any, arguments: argparse.Namespace) -> Line:
    """Fit a peer once and judge it."""
    from benchmarks.peers.classifiers import PEERS, Task

    rows = materials.train
    whole = [i for i, code in enumerate(rows.codes) if len(code) == 6 and rows.weights[i] > 0]
    kept = rows.take(whole)
    classes = tuple(materials.levels.codes[6])
    threads = materials.settings.train.threads
    task = Task(kept.texts, kept.codes, kept.weights, classes, arguments.seeds[0], threads, arguments.hmrc_encoder)
    title, fit = PEERS[name]
    began = cpu_seconds()
    fitted = fit(task)
    line = Line(title, seconds=[cpu_seconds() - began], size=fitted.size_bytes)
    judge(line, fitted.scores(frame["description"].to_list()), classes, frame["hs6"].to_list(), fitted.sums)
    line.milliseconds.append(latency(lambda text: fitted.scores([text]), frame["description"].to_list()))
    return line


def judge(line: Line, scores: Any, classes: Sequence[str], codes: Sequence[str], sums: bool) -> None:
    """Add top-1 at two, four and six digits and top-5 at six."""
    from models.answer import Levels

    levels = Levels(classes)
    best = scores.argmax(axis=1)
    right = []
    for digits in (2, 4, 6):
        if sums:
            found = [levels.codes[digits][i] for i in levels.probabilities(scores, digits).argmax(axis=1)]
        else:
            found = [classes[i][:digits] for i in best]
        right.append(float(np.mean([a == code[:digits] for a, code in zip(found, codes, strict=True)])))
    five = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    line.top1.append((right[0], right[1], right[2]))
    line.top5.append(float(np.mean([code in {classes[i] for i in row} for row, code in zip(five, codes, strict=True)])))


def judge_bundle(line: Line, bundle: Any, frame: Any) -> None:
    """Add a bundle's figures, those of its answer policy included."""
    from models.answer import decide

    texts, codes = frame["description"].to_list(), frame["hs6"].to_list()
    p = bundle.probabilities(texts)
    coded = [i for i in range(len(bundle.classes)) if i != bundle.vague]
    judge(line, p[:, coded], [bundle.classes[i] for i in coded], codes, sums=True)
    decisions = decide(bundle.levels, p, bundle.thresholds, 6, bundle.informative(texts))
    given = decisions.codes(bundle.levels)
    right = [code.startswith(answer) for answer, code in zip(given, codes, strict=True) if answer]
    line.answered.append(
        (len(right) / len(codes), float(np.mean(decisions.digits >= 4)), float(np.mean(right)) if right else 0.0)
    )
    line.milliseconds.append(latency(lambda text: bundle.answer([text]), texts))
    line.size = sum(file.stat().st_size for file in bundle.folder.rglob("*") if file.is_file())


def cpu_seconds() -> float:
    """CPU time of this process and of those it started that have ended."""
    return sum(os.times()[:4])


def latency(answer: Callable[[str], Any], texts: Sequence[str], rows: int = 100) -> float:
    """Median milliseconds of one text, of CPU."""
    spent = []
    for text in texts[: rows + 5]:
        start = time.process_time()
        answer(text)
        spent.append((time.process_time() - start) * 1000)
    return float(np.median(spent[5:] or spent))


def print_table(lines: Sequence[Line], about: dict[str, Any], settings: Any, out: Path | None) -> None:
    """The table, with what its figures are of next to each."""
    of = (
        f"{about['classes']:,} classes of 6 digits; grouped split, seed {about['seed']}, "
        f"{about['rows']['train']:,}/{about['rows']['valid']:,}/{about['rows']['test']:,} rows; "
        f"judged on {about['judged']:,} trader-style test rows ({', '.join(about['sources'])})"
    )
    half = 100 * 1.96 * 0.5 / np.sqrt(max(1, about["judged"]))
    print(f"{of}\n95 % intervals of the shares: at most ±{half:.1f} points\n")
    head = ("model", "seeds", "HS2", "HS4", "HS6", "top-5", "answered", "≥4 digits", "right", "CPU s", "ms", "MB")
    price = f"{settings.cost.currency}/M"
    print(f"{head[0]:34}" + "".join(f"{title:>10}" for title in (*head[1:], price)))
    records = []
    for line in lines:
        shares = [*np.mean(line.top1, axis=0), float(np.mean(line.top5))]
        answered = list(np.mean(line.answered, axis=0)) if line.answered else [None] * 3
        milliseconds = float(np.mean(line.milliseconds))
        million = milliseconds / 1000 * 1e6 / 3600 * settings.cost.cpu_hour
        cells = [f"{len(line.top1):>10}"]
        cells += [f"{'-' if value is None else f'{100 * value:.1f}':>10}" for value in (*shares, *answered)]
        cells += [f"{np.mean(line.seconds):>10.0f}" if line.seconds else f"{'-':>10}"]
        cells += [f"{milliseconds:>10.2f}", f"{line.size / 1e6:>10.1f}"]
        print(f"{line.name:34}" + "".join(cells) + f"{million:>10.3f}")
        records.append({**vars(line), "price_per_million": million, "of": of})
    if out is not None:
        out.write_text(json.dumps(records, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
