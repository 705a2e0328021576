"""Linear SVCs on word and character n-grams: scikit-learn's LinearSVC for chapters, for headings, within each heading.

A machine for each of 5,600 subheadings against all other rows takes an hour of CPU time and does worse: most have two
rows to go by. A machine for each chapter and each heading against the rest, and in each heading one for each of its
subheadings against its siblings, take two minutes. A subheading's score is the weighted sum of what its chapter's and
its heading's machines say for it, and the logarithm of its share within the heading.

What a machine says is the logarithm of a sigmoid of the text's distance from its plane (Platt, 1999): beyond the margin
more distance tells hardly more. Taken as it is, distance made the surest answers far too sure: docs/decisions/0013.
Slope and place of the sigmoid, one for all machines, are fitted on valid with the three weights.

Weights near zero are dropped as in DiSMEC (Babbar and Schölkopf, 2017) and the rest kept as eight-bit steps of each
machine's largest. That is part of the model, not of its export: `logits` and the ONNX graph read the same numbers. The
graph walks only the weights of a text's own features, so a short text costs little however many machines there are.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.calibration import softmax
from models.nets.base import VAGUE, Materials, Rows
from models.progress import report
from models.text.encode import NgramEncoder
from models.text.paths import SEPARATOR, informative_tail

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

USUAL = np.array([8.0, 14.0, 3.0, 1.0, -0.8])
"""Weights of chapter, heading and subheading, logarithm of the sigmoid's slope, and its place: where the fit on valid
begins, and what stands where valid cannot tell."""
STEPS = np.array([4.0, 7.0, 0.5, 0.5, 0.4])
"""How far the fit first tries to go from there."""
WORTH_PROCESSES = 2e7
"""Non-zero features times machines from which on fitting takes longer than starting a process does."""


def build(materials: Materials) -> "LinearSVCs":
    """The net of this kind, not yet fitted."""
    return LinearSVCs(materials)


class LinearSVCs:
    """Implements `models.nets.base.Net`. Machines are numbered: chapters, then headings, then classes (subheadings and,
    where there is one, the vague class, which is a chapter and a heading of its own)."""

    def __init__(self, materials: Materials) -> None:
        self.materials = materials
        self.settings = materials.settings.models.svc
        self.rows = merge_paths(materials.train)
        stem = materials.settings.text.stem
        self.encoder = _encoder(self.rows.texts, self.settings.min_rows, self.settings.ngrams, stem)
        self.chapters = sorted({code[:2] for code in materials.classes})
        self.headings = sorted({code[:4] for code in materials.classes})
        self.chapter_of = np.array([self.chapters.index(code[:2]) for code in materials.classes], dtype=np.int64)
        self.heading_of = np.array([self.headings.index(code[:4]) for code in materials.classes], dtype=np.int64)
        machines = len(self.chapters) + len(self.headings) + len(materials.classes)
        self.machines = Machines(machines, len(self.encoder.terms))
        self.shares = USUAL[:3].copy()
        """Weights of chapter, heading and subheading."""
        self.slope, self.place = float(np.exp(USUAL[3])), float(USUAL[4])
        """Of the sigmoid."""

    def fit(self, watch: Callable[[int, float], None] | None = None) -> dict[str, Any]:
        """Fit all machines, prune them, then weigh the levels on valid."""
        features = self._matrix(self.rows.texts)
        of_law = np.array(self.rows.kinds) == "nomenclature"
        weights = np.where(of_law, self.settings.law_weight, self.rows.weights).astype(np.float64)
        first = 0
        for digits, names in ((2, self.chapters), (4, self.headings)):
            index = {name: i for i, name in enumerate(names)}
            reach = [i for i, code in enumerate(self.rows.codes) if len(code) >= digits]
            used = np.array([i for i in reach if self.rows.codes[i][:digits] in index], dtype=np.intp)
            labels = np.array([index[self.rows.codes[i][:digits]] for i in used], dtype=np.int64)
            self._fit_level(features[used], labels, weights[used], first)
            first += len(names)
        self._fit_vague(features, weights)
        self._fit_within_headings(features, weights, first)
        self.machines.close()
        self._weigh_levels()
        return {
            "rows": len(self.rows),
            "features": features.shape[1],
            "weights_kept": int(self.machines.steps.nnz),
            "weights_fitted": self.machines.fitted,
            "level_weights": self.shares.tolist(),
            "sigmoid": {"slope": self.slope, "place": self.place},
        }

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, classes), by scipy."""
        chapters, headings, own = self._distances(texts)
        chapters, headings = _evidence(chapters, self._vague_chapter), _evidence(headings)
        return _scores(chapters, headings, own, self.chapter_of, self.heading_of, self.shares)

    @property
    def _vague_chapter(self) -> int | None:
        """The vague machine's number. Its distance, moved to its place among the codes, counts as it is."""
        return None if self.materials.vague is None else self.chapters.index(VAGUE)

    def export(self, path: Path) -> None:
        """ONNX graph `features` int64 (n, F), `values` float32 (n, F) → `logits` (see `sparse_graph`)."""
        import onnx

        by_feature = self.machines.steps.T.tocsr()
        by_feature.sort_indices()
        # Feature 0 stands for none, so the graph's row k is the encoder's feature k.
        starts = np.concatenate([[0], by_feature.indptr]).astype(np.int64)
        graph = sparse_graph(
            starts,
            by_feature.indices,
            by_feature.data.astype(np.int8),
            self.machines.scale,
            self.machines.bias,
            self.chapter_of,
            self.heading_of,
            self.shares,
            self._vague_chapter,
        )
        onnx.save(graph, str(path))

    def _fit_level(self, features: Any, labels: Ints, weights: Floats, first: int) -> None:
        """Machines of one level, each against all other rows, some at a time in each process. Processes, because
        liblinear draws from one generator that all threads of a process share, so threads made every fit another."""
        from joblib import Parallel, delayed
        from joblib.externals.loky import get_reusable_executor

        settings, names = self.settings, np.unique(labels)
        if len(names) < 2:
            return
        parts = np.array_split(names, max(1, len(names) // settings.machines_a_fit))
        worth = features.nnz * len(names) >= WORTH_PROCESSES
        processes = min(len(parts), self.materials.settings.train.threads) if worth else 1
        fit = delayed(fit_and_prune)
        fitted = Parallel(n_jobs=processes, return_as="generator", mmap_mode="c")(
            fit(features, labels, weights, part, settings.cost, settings.tolerance, settings.prune) for part in parts
        )
        for number, (part, machines) in enumerate(zip(parts, fitted, strict=True), start=1):
            self.machines.put(part + first, machines)
            done = (self.machines.put_so_far / len(self.machines.scale)) ** 0.5
            report(self.materials.step, 0.95 * done, 1, f"{number} of {len(parts)} parts of a level")
        if processes > 1:
            # Else they would live on for minutes, with their memory, and their CPU time would be nobody's.
            get_reusable_executor(reuse=True).shutdown(wait=True)

    def _fit_vague(self, features: Any, weights: Floats) -> None:
        """One machine for vague texts, as their chapter. They are no counter-examples to the other machines: there they
        would drown the few rows that say what a word is of, and with it the order of the codes."""
        labels = np.array([int(code != VAGUE) for code in self.rows.codes], dtype=np.int64)
        if self.materials.vague is None or labels.all():
            return
        one = np.zeros(1, dtype=np.int64)
        settings = self.settings
        fitted = fit_and_prune(features, labels, weights, one, settings.cost, settings.tolerance, settings.prune)
        self.machines.put(one + self.chapters.index(VAGUE), fitted)

    def _fit_within_headings(self, features: Any, weights: Floats, first: int) -> None:
        """Machines of subheadings against their siblings."""
        codes, settings = self.rows.codes, self.settings
        index = {code: i for i, code in enumerate(self.materials.classes)}
        siblings: dict[str, list[int]] = {}
        for i, code in enumerate(codes):
            if code in index:
                siblings.setdefault(code[:4], []).append(i)
        for members in siblings.values():
            labels = np.array([index[codes[i]] for i in members], dtype=np.int64)
            own = np.unique(labels)
            if len(own) == 1:
                # Nothing to tell apart, but before siblings that have no row at all.
                self.machines.put(own + first, pruned(np.zeros((1, features.shape[1])), np.zeros(1), settings.prune))
                continue
            part = features[members]
            columns = np.unique(part.indices)
            narrow, bias = fit_against_rest(
                part[:, columns], labels, weights[members], own, settings.sibling_cost, settings.tolerance
            )
            wide = np.zeros((len(own), features.shape[1]))
            wide[:, columns] = narrow
            self.machines.put(own + first, pruned(wide, bias, settings.prune))

    def _weigh_levels(self) -> None:
        """Sigmoid and weights that make the true codes of valid most likely among all codes; then the vague machine's
        place among them."""
        from scipy.optimize import minimize

        valid, levels, vague = self.materials.valid, self.materials.levels, self.materials.vague
        rows = [i for i, kind in enumerate(valid.kinds) if kind != "nomenclature"] or list(range(len(valid)))
        codes = [valid.codes[i] for i in rows]
        chapters, headings, own = self._distances([valid.texts[i] for i in rows])
        truths = {digits: levels.indices(codes, digits) for digits in (2, 4, 6)}

        def of_codes(settings: Floats) -> Floats:
            slope, place = np.float32(np.exp(settings[3])), np.float32(settings[4])
            chapter, heading = (_evidence((distances - place) * slope) for distances in (chapters, headings))
            scores = _scores(chapter, heading, own, self.chapter_of, self.heading_of, np.abs(settings[:3]))
            logits = scores.astype(np.float64)
            if vague is not None:
                logits[:, vague] = -1e9
            return logits

        def loss(settings: Floats) -> float:
            p = softmax(of_codes(settings))
            total = 0.0
            for digits, truth in truths.items():
                known = np.flatnonzero(truth >= 0)
                if len(known):
                    likely = levels.probabilities(p, digits)[known, truth[known]]
                    total -= float(np.log(np.maximum(likely, 1e-12)).mean())
            return total

        found = USUAL
        if any(codes):
            corners = np.vstack([USUAL, USUAL + np.diag(STEPS)])
            options = {"initial_simplex": corners, "maxfev": 150, "xatol": 0.02, "fatol": 1e-4}
            found = minimize(loss, USUAL, method="Nelder-Mead", options=options).x
        self.shares, self.slope, self.place = np.abs(found[:3]), float(np.exp(found[3])), float(found[4])
        # Until here every machine says its distance; from here on what the sigmoid is taken of.
        for number in range(len(self.chapters) + len(self.headings)):
            self.machines.move(number, self.slope, -self.slope * self.place)
        if vague is None:
            return
        number = self.chapters.index(VAGUE)
        # The vague class's heading is no machine of its own, and says nothing.
        self.machines.move(len(self.chapters) + self.headings.index(VAGUE), 0.0, 1e4)
        is_vague = np.array([not code for code in codes], dtype=bool)
        others = np.logaddexp.reduce(of_codes(found), axis=1)
        distance = self.slope * (chapters[:, number].astype(np.float64) - self.place)

        def vague_loss(line: Floats) -> float:
            ahead = line[0] * distance + line[1] - others
            return float(np.logaddexp(0, np.where(is_vague, -ahead, ahead)).mean())

        slope, offset = 4.0 / self.slope, 4.0 * self.place + float(others.mean())
        if any(codes) and is_vague.any():
            slope, offset = minimize(vague_loss, np.array([slope, offset]), method="Nelder-Mead").x
        self.machines.move(number, slope / self.shares[0], offset / self.shares[0])

    def _distances(self, texts: Sequence[str]) -> tuple[Floats32, Floats32, Floats32]:
        """Distances (n, chapters), (n, headings), (n, classes) from the machines' planes."""
        sums = self._matrix(texts).astype(np.float32) @ self.machines.steps.T.astype(np.float32)
        dense = np.asarray(sums.todense(), dtype=np.float32) * self.machines.scale + self.machines.bias
        chapters, headings, own = np.split(dense, [len(self.chapters), len(self.chapters) + len(self.headings)], axis=1)
        return chapters, headings, own

    def _matrix(self, texts: Sequence[str]) -> Any:
        from scipy import sparse

        analysed = [self.encoder.analyse(text) for text in texts]
        pointers = np.cumsum([0, *(len(found) for found, _ in analysed)])
        columns = np.concatenate([found for found, _ in analysed]) - 1
        values = np.concatenate([value for _, value in analysed]).astype(np.float64)
        return sparse.csr_matrix((values, columns, pointers), shape=(len(texts), len(self.encoder.terms)))


class Machine(NamedTuple):
    """Pruned weights of one machine: `steps` of -127..127 at features `at`, times `scale`; and how many were fitted."""

    at: npt.NDArray[np.int32]
    steps: npt.NDArray[np.int8]
    scale: float
    bias: float
    fitted: int


def pruned(weights: Floats, bias: Floats, prune: float) -> list[Machine]:
    """What counts of (k, features) `weights` and (k,) `bias` of k machines."""
    machines = []
    for row, b in zip(weights, bias, strict=True):
        largest = float(np.abs(row).max()) or 1.0
        scale = np.float32(largest / 127)
        at = np.flatnonzero(np.abs(row) >= max(prune, largest / 254)).astype(np.int32)
        steps = np.rint(row[at] / scale).astype(np.int8)
        machines.append(Machine(at, steps, float(scale), float(b), int(np.count_nonzero(row))))
    return machines


class Machines:
    """Pruned weights of all machines: steps of -127..127, times `scale` of the machine, plus `bias`. A machine that is
    not put, for want of rows, is as far from every text as one can be: -1."""

    def __init__(self, machines: int, features: int) -> None:
        self.shape = (machines, features)
        self.scale = np.ones(machines, dtype=np.float32)
        self.bias = np.full(machines, -1.0, dtype=np.float32)
        self.fitted = 0
        self._kept: dict[int, tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]] = {}

    @property
    def put_so_far(self) -> int:
        """Machines put."""
        return len(self._kept)

    def put(self, numbers: Ints, machines: Sequence[Machine]) -> None:
        """Keep fitted machines under their numbers."""
        for c, machine in zip(numbers.tolist(), machines, strict=True):
            self.fitted += machine.fitted
            self.scale[c], self.bias[c] = machine.scale, machine.bias
            self._kept[c] = machine.at, machine.steps

    def move(self, number: int, factor: float, offset: float) -> None:
        """Make a machine say `factor` times what it said, plus `offset`."""
        self.scale[number] *= np.float32(factor)
        self.bias[number] = self.bias[number] * np.float32(factor) + np.float32(offset)

    def close(self) -> None:
        """Make `steps`, the (machines, features) sparse matrix."""
        from scipy import sparse

        nothing = (np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int8))
        kept = [self._kept.pop(c, nothing) for c in range(self.shape[0])]
        pointers = np.cumsum([0, *(len(at) for at, _ in kept)])
        parts = (np.concatenate([steps for _, steps in kept]), np.concatenate([at for at, _ in kept]), pointers)
        self.steps = sparse.csr_matrix(parts, shape=self.shape)


def _evidence(distances: Floats32, plain: int | None = None) -> Floats32:
    """The logarithm of the sigmoid of (n, machines) distances; that of machine `plain` stays as it is."""
    said: Floats32 = -np.logaddexp(np.float32(0), -distances)
    if plain is not None:
        said[:, plain] = distances[:, plain]
    return said


def _scores(
    chapters: npt.NDArray[np.float32],
    headings: npt.NDArray[np.float32],
    own: npt.NDArray[np.float32],
    chapter_of: Ints,
    heading_of: Ints,
    shares: Floats,
) -> npt.NDArray[np.float32]:
    """(n, classes): weighted evidence of chapter and heading, plus the log share within the heading."""
    chapter, heading, sibling = (np.float32(share) for share in shares)
    scaled = own * sibling
    starts = np.flatnonzero(np.diff(heading_of, prepend=-1))
    # Classes are sorted, so a heading's stand together.
    total = np.add.reduceat(np.exp(scaled), starts, axis=1)
    place = np.cumsum(np.diff(heading_of, prepend=heading_of[0]) != 0)
    within = scaled - np.log(total)[:, place]
    out: npt.NDArray[np.float32] = chapters[:, chapter_of] * chapter + headings[:, heading_of] * heading + within
    return out


def merge_paths(rows: Rows) -> Rows:
    """Rows with a tariff's paths of one code as a single row: its sibling lines say nearly the same, and every row
    costs as much in training as a trader's."""
    keep = []
    merged: dict[str, list[int]] = {}
    for i, (text, kind) in enumerate(zip(rows.texts, rows.kinds, strict=True)):
        if kind == "nomenclature" and SEPARATOR in text:
            merged.setdefault(rows.codes[i], []).append(i)
        else:
            keep.append(i)
    texts, codes = [rows.texts[i] for i in keep], [rows.codes[i] for i in keep]
    for code, members in merged.items():
        parts = dict.fromkeys(part for i in members for part in informative_tail(rows.texts[i], 9).split(SEPARATOR))
        texts.append(SEPARATOR.join(parts))
        codes.append(code)
    first = keep + [members[0] for members in merged.values()]
    return Rows(texts, codes, rows.weights[first], [rows.kinds[i] for i in first], [rows.sources[i] for i in first])


def fit_against_rest(
    features: Any,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    classes: Ints,
    cost: float,
    tolerance: float,
) -> tuple[Floats, Floats]:
    """Weights (k, features) and bias (k,) of k `classes`, each against all other rows, in one call of liblinear.

    The rows of other classes stand in as one more class; its own machine is made worthless (its cost near 0) and thrown
    away, so that it takes no time. In liblinear a class's cost counts for its own machine only.
    """
    from sklearn.svm import LinearSVC

    position = np.full(int(labels.max()) + 1, len(classes))
    position[classes] = np.arange(len(classes))
    targets = position[labels]
    rest = {len(classes): 1e-6} if (targets == len(classes)).any() and len(classes) > 1 else None
    machine = LinearSVC(C=cost, tol=tolerance, dual=True, random_state=0, class_weight=rest)
    with warnings.catch_warnings():
        # "More classes than half the rows": so it is in a heading where each subheading has its legal text alone.
        warnings.simplefilter("ignore", UserWarning)
        machine.fit(features, targets, sample_weight=weights)
    coefficients, bias = machine.coef_, machine.intercept_
    if len(machine.classes_) == 2:
        # Two classes are one machine, whose positive side is the second.
        coefficients, bias = np.concatenate([-coefficients, coefficients]), np.concatenate([-bias, bias])
    return coefficients[: len(classes)], bias[: len(classes)]


def fit_and_prune(
    features: Any, labels: Ints, weights: Floats, classes: Ints, cost: float, tolerance: float, prune: float
) -> list[Machine]:
    """`fit_against_rest`, as it is kept."""
    return pruned(*fit_against_rest(features, labels, weights, classes, cost, tolerance), prune)


def sparse_graph(
    starts: npt.NDArray[np.int64],
    machine_ids: npt.NDArray[Any],
    steps: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    chapter_of: Ints,
    heading_of: Ints,
    shares: Floats,
    plain: int | None = None,
) -> Any:
    """ONNX graph of the sparse machines and their sum: `features`, `values` (n, F) → `logits` (n, classes).

    Feature f has the weights `steps[starts[f]:starts[f + 1]]`, of the machines `machine_ids[...]` there. The graph
    lists the weights of all features of all texts, one after the other, and adds each, times its feature's value, to
    its text's machine; a sum's order is that of the text's own features, so it does not depend on other texts. Class c
    is of chapter `chapter_of[c]` and heading `heading_of[c]`; `shares` are the weights of the three levels, `plain` the
    chapter whose distance counts as it is.
    """
    from onnx import TensorProto, helper, numpy_helper

    machines = len(scale)
    chapters, headings = int(chapter_of.max()) + 1, int(heading_of.max()) + 1
    small = machine_ids.astype(np.int16 if machines < 2**15 else np.int32)
    shares_32 = [np.array(share, dtype=np.float32) for share in shares]
    constants: dict[str, npt.NDArray[Any]] = {
        "starts": starts, "machine_ids": small, "steps": steps, "scale": scale, "bias": bias,
        "flat": np.array([-1], dtype=np.int64), "one": np.array(1, dtype=np.int64),
        "ones": np.array([1], dtype=np.int64), "zero": np.array(0, dtype=np.int64),
        "zeros": np.array([0], dtype=np.int64), "axis": np.array(0, dtype=np.int64),
        "machines": np.array(machines, dtype=np.int64), "machines_1": np.array([machines], dtype=np.int64),
        "back": np.array([-1, machines], dtype=np.int64), "chapters": np.array([chapters], dtype=np.int64),
        "upper": np.array([chapters + headings], dtype=np.int64), "headings": np.array([headings], dtype=np.int64),
        "chapter_of": chapter_of, "heading_of": heading_of, "heading_of_1": heading_of[None, :],
        "is_plain": np.arange(chapters) == (-1 if plain is None else plain),
        "chapter_share": shares_32[0], "heading_share": shares_32[1], "sibling_share": shares_32[2],
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Reshape", ["features", "flat"], ["f"]),
        node("Reshape", ["values", "flat"], ["v"]),
        node("Shape", ["features"], ["shape"]),
        node("Gather", ["shape", "zeros"], ["n"]),
        node("Gather", ["shape", "one"], ["width"]),
        node("Gather", ["starts", "f"], ["begin"]),
        node("Add", ["f", "one"], ["f_next"]),
        node("Gather", ["starts", "f_next"], ["end"]),
        node("Sub", ["end", "begin"], ["count"]),
        node("CumSum", ["count", "axis"], ["through"]),
        node("Sub", ["through", "count"], ["offset"]),
        node("ReduceSum", ["count"], ["total"], keepdims=0),
        node("Add", ["total", "one"], ["room"]),
        node("Unsqueeze", ["room", "zeros"], ["room_1"]),
        node("Unsqueeze", ["total", "zeros"], ["total_1"]),
        # Which of the flat features each listed weight belongs to: one more at each feature's first weight.
        node("ConstantOfShape", ["room_1"], ["blank"], value=helper.make_tensor("", TensorProto.INT64, [1], [0])),
        node("ConstantOfShape", ["f_shape"], ["marks"], value=helper.make_tensor("", TensorProto.INT64, [1], [1])),
        node("ScatterElements", ["blank", "offset", "marks"], ["begins"], axis=0, reduction="add"),
        node("CumSum", ["begins", "axis"], ["begun"]),
        node("Slice", ["begun", "zeros", "total_1"], ["begun_to_total"]),
        node("Sub", ["begun_to_total", "one"], ["owner"]),
        node("Range", ["zero", "total", "one"], ["listed"]),
        node("Sub", ["begin", "offset"], ["shift"]),
        node("Gather", ["shift", "owner"], ["own_shift"]),
        node("Add", ["listed", "own_shift"], ["at"]),
        node("Gather", ["machine_ids", "at"], ["machine_small"]),
        node("Cast", ["machine_small"], ["machine"], to=TensorProto.INT64),
        node("Gather", ["steps", "at"], ["step_small"]),
        node("Cast", ["step_small"], ["step"], to=TensorProto.FLOAT),
        node("Gather", ["v", "owner"], ["value"]),
        node("Mul", ["step", "value"], ["part"]),
        node("Div", ["owner", "width"], ["row"]),
        node("Mul", ["row", "machines"], ["row_start"]),
        node("Add", ["row_start", "machine"], ["target"]),
        node("Mul", ["n", "machines_1"], ["cells"]),
        node("ConstantOfShape", ["cells"], ["empty"], value=helper.make_tensor("", TensorProto.FLOAT, [1], [0.0])),
        node("ScatterElements", ["empty", "target", "part"], ["sums"], axis=0, reduction="add"),
        node("Reshape", ["sums", "back"], ["by_row"]),
        node("Mul", ["by_row", "scale"], ["scaled"]),
        node("Add", ["scaled", "bias"], ["distances"]),
        node("Slice", ["distances", "zeros", "chapters", "ones"], ["of_chapter"]),
        node("Slice", ["distances", "chapters", "upper", "ones"], ["of_heading"]),
        node("Slice", ["distances", "upper", "machines_1", "ones"], ["of_class"]),
        # The logarithm of the sigmoid.
        *[
            made
            for level in ("chapter", "heading")
            for made in (
                node("Neg", [f"of_{level}"], [f"against_{level}"]),
                node("Softplus", [f"against_{level}"], [f"doubt_{level}"]),
                node("Neg", [f"doubt_{level}"], [f"said_{level}"]),
            )
        ],
        node("Where", ["is_plain", "of_chapter", "said_chapter"], ["for_chapter"]),
        node("Gather", ["for_chapter", "chapter_of"], ["own_chapter"], axis=1),
        node("Gather", ["said_heading", "heading_of"], ["own_heading"], axis=1),
        node("Mul", ["own_chapter", "chapter_share"], ["by_chapter"]),
        node("Mul", ["own_heading", "heading_share"], ["by_heading"]),
        node("Mul", ["of_class", "sibling_share"], ["by_sibling"]),
        # The logarithm of the share within the heading.
        node("Exp", ["by_sibling"], ["raised"]),
        node("Shape", ["raised"], ["raised_shape"]),
        node("Expand", ["heading_of_1", "raised_shape"], ["group"]),
        node("Concat", ["n", "headings"], ["groups_shape"], axis=0),
        node(
            "ConstantOfShape", ["groups_shape"], ["blanks"], value=helper.make_tensor("", TensorProto.FLOAT, [1], [0])
        ),
        node("ScatterElements", ["blanks", "group", "raised"], ["totals"], axis=1, reduction="add"),
        node("Gather", ["totals", "heading_of"], ["own_total"], axis=1),
        node("Log", ["own_total"], ["log_total"]),
        node("Sub", ["by_sibling", "log_total"], ["within"]),
        node("Add", ["by_chapter", "by_heading"], ["above"]),
        node("Add", ["above", "within"], ["logits"]),
    ]
    nodes.insert(3, node("Shape", ["f"], ["f_shape"]))
    graph = helper.make_graph(
        nodes,
        "svc",
        [
            helper.make_tensor_value_info("features", TensorProto.INT64, ["n", "f"]),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n", "f"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(heading_of)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="hscode")
    model.ir_version = 8
    return model


def _encoder(texts: Sequence[str], min_rows: int, ngrams: tuple[int, int], stem: bool) -> NgramEncoder:
    """Terms that at least `min_rows` texts have, with their smoothed inverse document frequency."""
    plain = NgramEncoder([], [], ngrams, stem)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(plain.terms_of(text)))
    terms = sorted(term for term, rows in counts.items() if rows >= min_rows)
    return NgramEncoder(terms, [np.log((1 + len(texts)) / (1 + counts[t])) + 1 for t in terms], ngrams, stem)
