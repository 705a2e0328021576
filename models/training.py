"""From the parts of the split to a bundle: rows, up-sampling, fit, export, calibration, card; same for all kinds."""

import json
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from config.settings import Settings
from models.answer import fit_thresholds
from models.bundle import FORMAT, Bundle
from models.calibration import fit_temperature, softmax
from models.data.files import disk_errors, whole_folder, write_json
from models.data.upsample import upsample
from models.errors import UserError
from models.explain import build_index
from models.hs.edition import Edition
from models.nets.base import VAGUE, Materials, Net, Rows, build, work_folder
from models.nets.warm import Cold, read_start
from models.progress import report
from models.reference import reference_of
from models.text.embedding import train_embedding
from models.text.paths import informative_tail

if TYPE_CHECKING:
    import polars as pl

AGREEMENT = 1e-4
"""Largest difference of a probability before and after export that a bundle may have."""
COMPARED_ROWS = 1000
"""Rows on which it is measured."""
TRADER_KINDS = ("given", "corrected")
WITHOUT_EMBEDDING = ("svc", "encoder", "pool")
"""Kinds that do not read the embed step's folder."""


def train_bundle(
    kind: str,
    split_dir: Path,
    embedding_dir: Path | None,
    settings: Settings,
    out: Path,
    *,
    seed: int | None = None,
    rows: Sequence[int] | npt.NDArray[np.intp] | None = None,
    members: Mapping[str, Path] | None = None,
    champion: Path | None = None,
) -> dict[str, Any]:
    """Train `kind` on the split's training part, export it and write its bundle to `out`; returns the card.

    `seed` and `rows` (indices into train.parquet, repetitions allowed) are a simulation's; None: the settings' seed,
    all rows. `members` are the bundles of a pool, by kind. `champion` is the bundle that a net's training begins at
    where it can (models.nets.warm; the card says whether); an empty folder: there is none. A killed training goes on
    from its last epoch where ``HSCODE_WORK`` names a folder that is still there. Raises UserError where nothing can be
    learnt from the rows.
    """
    began = time.monotonic()
    if rows is not None and embedding_dir is not None and kind not in WITHOUT_EMBEDDING:
        # The embedding has seen the labels of all training rows, a simulation's test rows among them.
        with tempfile.TemporaryDirectory() as own:
            embedding = Path(own) / "embedding"
            train_embedding(split_dir, settings, embedding, rows)
            return _train(began, kind, split_dir, embedding, settings, out, seed, rows, members, None)
    return _train(began, kind, split_dir, embedding_dir, settings, out, seed, rows, members, champion)


def _train(
    began: float,
    kind: str,
    split_dir: Path,
    embedding_dir: Path | None,
    settings: Settings,
    out: Path,
    seed: int | None,
    rows: Sequence[int] | npt.NDArray[np.intp] | None,
    members: Mapping[str, Path] | None,
    champion: Path | None,
) -> dict[str, Any]:
    materials = load_materials(
        kind, split_dir, embedding_dir, settings, seed=seed, rows=rows, members=members, champion=champion
    )
    net = build(kind, materials)
    training = net.fit()
    if materials.cold:
        training["warm_start"] = {"champion": None, "reason": materials.cold}
    with whole_folder(out) as folder, disk_errors(out):
        card = write_bundle(kind, net, materials, folder, split_dir, training, began)
    if materials.work is not None:
        shutil.rmtree(materials.work, ignore_errors=True)
    return card


def load_materials(
    kind: str,
    split_dir: Path,
    embedding_dir: Path | None,
    settings: Settings,
    *,
    seed: int | None = None,
    rows: Sequence[int] | npt.NDArray[np.intp] | None = None,
    members: Mapping[str, Path] | None = None,
    champion: Path | None = None,
) -> Materials:
    """What `build` needs. Classes are the edition's codes that have a training row or a legal text, and the vague class
    where the training part has vague rows."""
    import polars as pl

    seed = settings.train.seed if seed is None else seed
    train_frame = pl.read_parquet(split_dir / "train.parquet")
    if rows is not None:
        train_frame = train_frame[np.asarray(rows, dtype=np.int64).tolist()]
    edition = Edition.from_json(json.loads((split_dir / "edition.json").read_text(encoding="utf-8")))
    train, valid = (
        rows_of(train_frame, settings),
        rows_of(pl.read_parquet(split_dir / "valid.parquet"), settings, cut=False),
    )
    seen = {code for code in train.codes if len(code) == 6}
    coded = sorted(code for code in edition.texts if code in seen or edition.texts[code])
    if len(coded) < 2:
        raise UserError("fewer than two subheadings to learn", str(split_dir), "give rows of more codes")
    vague = len(coded) if VAGUE in train.codes else None
    digest = json.loads((split_dir / "split.json").read_text(encoding="utf-8"))["data_hash"]
    own = "" if rows is None else ",".join(map(str, rows))
    work = os.environ.get("HSCODE_WORK")
    start, cold = None, ""
    if champion is not None and kind != "pool":  # a pool has what its members have
        try:
            start = read_start(champion, kind, embedding_dir)
        except Cold as reason:
            cold = str(reason)
    begun = "" if start is None else f"from {start.champion}"
    return Materials(
        settings=settings,
        classes=tuple(coded) + ((VAGUE,) if vague is not None else ()),
        vague=vague,
        edition=edition.name,
        texts={code: edition.text(code) for six in coded for code in (six[:2], six[:4], six)},
        train=train,
        valid=valid,
        order=_upsampled(train, settings.train.upsample, seed),
        seed=seed,
        embedding=embedding_dir,
        work=work_folder(Path(work), kind, settings.digest(), digest, str(seed), own, begun) if work else None,
        members=dict(members or {}),
        start=start,
        cold=cold,
        step=f"train-{kind}",
    )


def rows_of(frame: "pl.DataFrame", settings: Settings, cut: bool = True) -> Rows:
    """The columns of a part as training reads them; paths of tariffs cut to what tells siblings apart if `cut`."""
    kinds = frame["label_kind"].to_list()
    texts = frame["description"].to_list()
    if cut and settings.train.path_parts:
        texts = [
            informative_tail(text, settings.train.path_parts) if kind == "nomenclature" else text
            for text, kind in zip(texts, kinds, strict=True)
        ]
    codes = [
        VAGUE if kind == "vague" else hs6 or (code[:4] if len(code) >= 4 else code[:2])
        for hs6, code, kind in zip(frame["hs6"].to_list(), frame["code"].to_list(), kinds, strict=True)
    ]
    weights = frame["weight"].to_numpy().astype(np.float32)
    return Rows(texts, codes, weights, kinds, frame["source"].to_list())


def write_bundle(
    kind: str,
    net: Net,
    materials: Materials,
    folder: Path,
    split_dir: Path,
    training: Mapping[str, Any],
    began: float,
) -> dict[str, Any]:
    """Export a fitted net into `folder` and complete it to a bundle; returns the card."""
    import polars as pl

    settings, valid, levels = materials.settings, materials.valid, materials.levels
    report(materials.step, 0.999, 1, "export and calibration")
    net.export(folder / "model.onnx")
    _write_compact(folder / "text.json", net.encoder.to_json())
    labels = {"classes": materials.classes, "vague": materials.vague, "edition": materials.edition}
    _write_compact(folder / "labels.json", {**labels, "texts": materials.texts})
    card: dict[str, Any] = {"format": FORMAT, "name": settings.registry.model, "kind": kind, "version": None}
    calibration: dict[str, Any] = {"temperature": 1.0, "thresholds": {}, "candidates": settings.answer.candidates}
    write_json(folder / "calibration.json", calibration)
    write_json(folder / "card.json", card)

    bundle = Bundle.load(folder)
    logits = bundle.logits(valid.texts)
    judged = _judged(valid)
    codes = [valid.codes[i] for i in judged]
    temperature = fit_temperature(logits[judged], codes, levels)
    p = softmax(logits, temperature)
    thresholds = fit_thresholds(levels, p[judged], codes, settings.answer.precision, settings.answer.assurance)
    calibration |= {"temperature": temperature, "thresholds": thresholds}
    write_json(folder / "calibration.json", calibration)

    compared = (valid.texts + materials.train.texts)[:COMPARED_ROWS]
    difference = float(
        np.abs(softmax(net.logits(compared), temperature) - softmax(bundle.logits(compared), temperature)).max()
    )
    if difference >= AGREEMENT:
        raise RuntimeError(f"{kind}: probabilities differ by {difference:.1e} before and after export")
    build_index(pl.read_parquet(split_dir / "train.parquet"), folder, settings.explain.index_rows)
    # Legal wording is no sample of what traders write, which is what the monitor will see.
    texts = [valid.texts[i] for i in judged]
    write_json(folder / "reference.json", reference_of(texts, p[judged], levels, net.encoder))
    split = json.loads((split_dir / "split.json").read_text(encoding="utf-8"))
    milliseconds = _latency(bundle, valid.texts)
    card |= {
        "data_hash": split["data_hash"],
        "edition": materials.edition,
        "git_commit": commit(),
        "pipeline_run": os.environ.get("HSCODE_RUN_ID", ""),
        "settings_hash": settings.digest(),
        "seed": materials.seed,
        "split": {key: split[key] for key in ("seed", "test_share", "valid_share", "rows", "groups")},
        "classes": len(levels.codes[6]),
        "classes_with_examples": len(
            {c for c, k in zip(materials.train.codes, materials.train.kinds, strict=True) if k in TRADER_KINDS}
        ),
        "train_rows": len(materials.train),
        "upsampled_rows": len(materials.order),
        "training": dict(training)
        | {
            "seconds": round(time.monotonic() - began, 1),
            "peak_memory_mb": _peak_memory_mb(settings.train.threads),
            "threads": settings.train.threads,
        },
        "export": {"compared_rows": len(compared), "largest_difference": difference},
        "latency_ms": milliseconds,
        "size_bytes": sum(file.stat().st_size for file in folder.iterdir() if file.name != "card.json"),
    }
    write_json(folder / "card.json", card)
    return card


def _judged(valid: Rows) -> list[int]:
    """Rows that calibration and thresholds go by: what traders wrote, and vague texts; all where there are none."""
    rows = [i for i, kind in enumerate(valid.kinds) if kind in TRADER_KINDS or kind == "vague"]
    return rows if any(valid.codes[i] for i in rows) else list(range(len(valid)))


def _upsampled(train: Rows, alpha: float, seed: int) -> npt.NDArray[np.intp]:
    numbers = {code: i for i, code in enumerate(sorted(set(train.codes)))}
    labels = np.array([numbers[code] for code in train.codes], dtype=np.int64)
    order = upsample(labels, train.weights.astype(np.float64), alpha, seed)
    return order[train.weights[order] > 0].astype(np.intp)


def _latency(bundle: Bundle, texts: Sequence[str], rows: int = 200) -> dict[str, float]:
    """Milliseconds from one text to its answer on one thread, p50 and p95: CPU time, as the clock would count what else
    the training's machine does, and the gate holds it against a limit."""
    spent = []
    for text in texts[: rows + 10]:
        start = time.thread_time()
        bundle.answer([text])
        spent.append((time.thread_time() - start) * 1000)
    spent = spent[10:] or spent
    return {"p50": round(float(np.percentile(spent, 50)), 3), "p95": round(float(np.percentile(spent, 95)), 3)}


def _peak_memory_mb(processes: int) -> int:
    """This process's peak and, for each that it may have had beside it, that of the largest one that has ended."""
    own, largest = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return int((own + processes * largest) // (2**20 if platform.system() == "Darwin" else 2**10))


def commit() -> str:
    """Commit of the code that runs: ``HSCODE_COMMIT`` (images set it), else git's HEAD, else "unknown"."""
    given = os.environ.get("HSCODE_COMMIT")
    if given:
        return given
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _write_compact(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
