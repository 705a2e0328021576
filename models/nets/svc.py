"""Linear SVC on word and character n-grams: scikit-learn's LinearSVC, a class against the rest, pruned to what counts.

Weights near zero are dropped as in DiSMEC (Babbar and Schölkopf, 2017) and the rest kept as eight-bit steps of each
class's largest. That is part of the model, not of its export: `logits` and the ONNX graph read the same numbers. The
graph walks only the weights of a text's own features, so a short text costs little however many classes there are.

There are machines for chapters and headings too, and a class's logit is the sum of the three margins: the margins of
six-digit machines alone, summed up as probabilities, say too little of the chapter (65.7 of 100 chapters right with the
three, 46.7 with one, kernel ridge on the same features, 1,292 trader-style rows, 5,613 classes, grouped split).
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.nets.base import Materials, Rows
from models.progress import report
from models.text.encode import NgramEncoder
from models.text.paths import SEPARATOR, informative_tail


def build(materials: Materials) -> "LinearSVCNet":
    """The net of this kind, not yet fitted."""
    return LinearSVCNet(materials)


class LinearSVCNet:
    """Implements `models.nets.base.Net`."""

    def __init__(self, materials: Materials) -> None:
        self.materials = materials
        self.settings = materials.settings.models.svc
        self.rows = merge_paths(materials.train)
        self.encoder = _encoder(self.rows.texts, self.settings.min_rows, self.settings.ngrams)
        self.columns = level_columns(materials)

    def fit(self, watch: Callable[[int, float], None] | None = None) -> dict[str, Any]:
        """Fit every class, heading and chapter against the rest, then prune. A row of fewer than six digits teaches the
        machines of the levels that it reaches."""
        materials, settings = self.materials, self.settings
        features = self._matrix(self.rows.texts)
        row_weights = self.rows.weights.astype(np.float64)
        self.coefficients = _Coefficients(int(self.columns.max()) + 1, features.shape[1])
        queue: list[tuple[Any, npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]] = []
        for labels in level_labels(materials, self.rows.codes):
            used = np.flatnonzero(labels >= 0)
            present = np.unique(labels[used])
            if queue and materials.vague is not None:
                present = present[present != materials.vague]
            for classes in np.array_split(present, max(1, len(present) // settings.classes_a_fit)):
                if len(classes):
                    queue.append((features[used], labels[used], row_weights[used], classes))
        done = 0
        lock = threading.Lock()
        total = len(queue)

        def work() -> None:
            nonlocal done
            while True:
                with lock:
                    if not queue or failed:
                        return
                    x, labels, weights, classes = queue.pop()
                try:
                    fitted = fit_against_rest(x, labels, weights, classes, settings.cost, settings.tolerance)
                except BaseException as error:
                    failed.append(error)
                    return
                with lock:
                    self.coefficients.put(classes, *fitted, settings.prune)
                    done += 1
                    report(materials.step, done / total * 0.99, 1, f"groups of classes: {done} of {total}")

        failed: list[BaseException] = []
        threads = [threading.Thread(target=work) for _ in range(max(1, materials.settings.train.threads))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        self.coefficients.close()
        return {
            "rows": features.shape[0],
            "features": features.shape[1],
            "weights_kept": int(self.coefficients.by_class.nnz),
            "weights_fitted": self.coefficients.fitted,
        }

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, classes): sums of the distances from the planes of class, heading and chapter, by scipy."""
        scores = self._matrix(texts).astype(np.float32) @ self.coefficients.by_class.T.astype(np.float32)
        dense: npt.NDArray[np.float32] = np.asarray(scores.todense(), dtype=np.float32)
        margins = dense * self.coefficients.scale + self.coefficients.bias
        subheading, heading, chapter = self.columns
        summed: npt.NDArray[np.float32] = margins[:, subheading] + margins[:, heading] + margins[:, chapter]
        return summed

    def export(self, path: Path) -> None:
        """ONNX graph `features` int64 (n, F), `values` float32 (n, F) → `logits` (see `sparse_graph`)."""
        import onnx

        coefficients = self.coefficients
        by_feature = coefficients.by_class.T.tocsr()
        by_feature.sort_indices()
        # Feature 0 stands for none, so the graph's row k is the encoder's feature k.
        starts = np.concatenate([[0], by_feature.indptr]).astype(np.int64)
        graph = sparse_graph(
            starts,
            by_feature.indices,
            by_feature.data.astype(np.int8),
            coefficients.scale,
            coefficients.bias,
            self.columns,
        )
        onnx.save(graph, str(path))

    def _matrix(self, texts: Sequence[str]) -> Any:
        from scipy import sparse

        analysed = [self.encoder.analyse(text) for text in texts]
        pointers = np.cumsum([0, *(len(found) for found, _ in analysed)])
        columns = np.concatenate([found for found, _ in analysed]) - 1
        values = np.concatenate([value for _, value in analysed]).astype(np.float64)
        return sparse.csr_matrix((values, columns, pointers), shape=(len(texts), len(self.encoder.terms)))


def level_columns(materials: Materials) -> npt.NDArray[np.int64]:
    """(3, classes): the machine of each class, of its heading and of its chapter; the vague class is its own thrice."""
    classes, levels = materials.classes, materials.levels
    own = np.arange(len(classes))
    out = np.stack([own, own, own]).astype(np.int64)
    coded = np.array([i for i in range(len(classes)) if i != materials.vague])
    first = len(classes)
    for row, digits in ((1, 4), (2, 2)):
        out[row, coded] = first + levels.indices([classes[i] for i in coded], digits)
        first += len(levels.codes[digits])
    return out


def level_labels(materials: Materials, codes: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """For subheadings, headings, chapters: the machine of each of n `codes`, -1 where the code is too short."""
    out = []
    starts = (0, len(materials.classes), len(materials.classes) + len(materials.levels.codes[4]))
    for digits, start in zip((6, 4, 2), starts, strict=True):
        if digits == 6:
            position = {code: i for i, code in enumerate(materials.classes)}
            labels = np.array([position.get(code, -1) for code in codes], dtype=np.int64)
        else:
            found = materials.levels.indices(codes, digits)
            labels = np.where(found >= 0, start + found, -1).astype(np.int64)
            if materials.vague is not None:
                labels[np.array([code == "" for code in codes], dtype=bool)] = materials.vague
        out.append(labels)
    return out


class _Coefficients:
    """Pruned weights of all classes: steps of -127..127, times `scale` of the class, plus `bias`."""

    def __init__(self, classes: int, features: int) -> None:
        self.shape = (classes, features)
        self.scale = np.ones(classes, dtype=np.float32)
        # A class without a row is as far from every text as one can be.
        self.bias = np.full(classes, -1.0, dtype=np.float32)
        self.fitted = 0
        self._kept: dict[int, tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]] = {}

    def put(
        self, classes: npt.NDArray[np.int64], weights: npt.NDArray[Any], bias: npt.NDArray[Any], prune: float
    ) -> None:
        """Keep what counts of (k, features) `weights` of k classes."""
        for c, row, b in zip(classes.tolist(), weights, bias, strict=True):
            largest = float(np.abs(row).max()) or 1.0
            self.fitted += int(np.count_nonzero(row))
            self.scale[c], self.bias[c] = largest / 127, b
            at = np.flatnonzero(np.abs(row) >= max(prune, largest / 254))
            self._kept[c] = at.astype(np.int32), np.rint(row[at] / self.scale[c]).astype(np.int8)

    def close(self) -> None:
        """Make `by_class`, the (classes, features) sparse matrix of steps."""
        from scipy import sparse

        nothing = (np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int8))
        kept = [self._kept.pop(c, nothing) for c in range(self.shape[0])]
        pointers = np.cumsum([0, *(len(at) for at, _ in kept)])
        parts = (np.concatenate([steps for _, steps in kept]), np.concatenate([at for at, _ in kept]), pointers)
        self.by_class = sparse.csr_matrix(parts, shape=self.shape)


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
    classes: npt.NDArray[np.int64],
    cost: float,
    tolerance: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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
    machine.fit(features, targets, sample_weight=weights)
    coefficients, bias = machine.coef_, machine.intercept_
    if len(machine.classes_) == 2:
        # Two classes are one machine, whose positive side is the second.
        coefficients, bias = np.concatenate([-coefficients, coefficients]), np.concatenate([-bias, bias])
    return coefficients[: len(classes)], bias[: len(classes)]


def sparse_graph(
    starts: npt.NDArray[np.int64],
    class_ids: npt.NDArray[Any],
    steps: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    columns: npt.NDArray[np.int64],
) -> Any:
    """ONNX graph of a sparse linear model: `features`, `values` (n, F) → `logits` (n, classes), each the sum of the
    margins of three machines (3, classes) `columns`.

    Feature f has the weights `steps[starts[f]:starts[f + 1]]`, of the classes `class_ids[...]` there. The graph lists
    the weights of all features of all texts, one after the other, and adds each, times its feature's value, to its
    text's class; a sum's order is that of the text's own features, so it does not depend on other texts.
    """
    from onnx import TensorProto, helper, numpy_helper

    classes = len(scale)
    small = class_ids.astype(np.int16 if classes < 2**15 else np.int32)
    constants: dict[str, npt.NDArray[Any]] = {
        "starts": starts, "class_ids": small, "steps": steps, "scale": scale, "bias": bias,
        "flat": np.array([-1], dtype=np.int64), "one": np.array(1, dtype=np.int64),
        "ones": np.array([1], dtype=np.int64), "zero": np.array(0, dtype=np.int64),
        "zeros": np.array([0], dtype=np.int64), "axis": np.array(0, dtype=np.int64),
        "classes": np.array(classes, dtype=np.int64), "classes_1": np.array([classes], dtype=np.int64),
        "back": np.array([-1, classes], dtype=np.int64),
        "subheading": columns[0], "heading": columns[1], "chapter": columns[2],
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
        node("Gather", ["class_ids", "at"], ["class_small"]),
        node("Cast", ["class_small"], ["class"], to=TensorProto.INT64),
        node("Gather", ["steps", "at"], ["step_small"]),
        node("Cast", ["step_small"], ["step"], to=TensorProto.FLOAT),
        node("Gather", ["v", "owner"], ["value"]),
        node("Mul", ["step", "value"], ["part"]),
        node("Div", ["owner", "width"], ["row"]),
        node("Mul", ["row", "classes"], ["row_start"]),
        node("Add", ["row_start", "class"], ["target"]),
        node("Mul", ["n", "classes_1"], ["cells"]),
        node("ConstantOfShape", ["cells"], ["empty"], value=helper.make_tensor("", TensorProto.FLOAT, [1], [0.0])),
        node("ScatterElements", ["empty", "target", "part"], ["sums"], axis=0, reduction="add"),
        node("Reshape", ["sums", "back"], ["by_row"]),
        node("Mul", ["by_row", "scale"], ["scaled"]),
        node("Add", ["scaled", "bias"], ["margins"]),
        node("Gather", ["margins", "subheading"], ["margin_6"], axis=1),
        node("Gather", ["margins", "heading"], ["margin_4"], axis=1),
        node("Gather", ["margins", "chapter"], ["margin_2"], axis=1),
        node("Add", ["margin_6", "margin_4"], ["margin_6_4"]),
        node("Add", ["margin_6_4", "margin_2"], ["logits"]),
    ]
    nodes.insert(3, node("Shape", ["f"], ["f_shape"]))
    graph = helper.make_graph(
        nodes,
        "svc",
        [
            helper.make_tensor_value_info("features", TensorProto.INT64, ["n", "f"]),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n", "f"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", columns.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="hscode")
    model.ir_version = 8
    return model


def _encoder(texts: Sequence[str], min_rows: int, ngrams: tuple[int, int]) -> NgramEncoder:
    """Terms that at least `min_rows` texts have, with their smoothed inverse document frequency."""
    plain = NgramEncoder([], [], ngrams)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(plain.terms_of(text)))
    terms = sorted(term for term, rows in counts.items() if rows >= min_rows)
    return NgramEncoder(terms, [np.log((1 + len(texts)) / (1 + counts[t])) + 1 for t in terms], ngrams)
