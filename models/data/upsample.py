"""Stratified up-sampling of the training part."""

import numpy as np
import numpy.typing as npt


def upsample(
    labels: npt.NDArray[np.int64], weights: npt.NDArray[np.float64] | None, alpha: float, seed: int
) -> npt.NDArray[np.int64]:
    """Row numbers of an up-sampled training part: every row once, rows of small classes again.

    `labels` (class numbers) and `weights` (None: all alike) have shape (rows,) and are of the training part alone:
    valid and test are never passed here. A class of n rows is filled up to largest * (n / largest) ** (1 - alpha):
    alpha 0 leaves sizes alone, 1 makes all classes as large as the largest. Rows are repeated in proportion to their
    weight, and what does not divide is drawn; rows of weight 0 are not repeated. Same arguments, same result.
    """
    rows = np.arange(len(labels), dtype=np.int64)
    if alpha == 0 or not len(labels):
        return rows
    random = np.random.default_rng(seed)
    _, label, size = np.unique(labels, return_inverse=True, return_counts=True)
    largest = size.max()
    target = np.rint(largest * (size / largest) ** (1 - alpha)).astype(np.int64)
    order = np.argsort(label, kind="stable")
    extra = []
    for members, missing in zip(np.split(order, np.cumsum(size)[:-1]), target - size, strict=True):
        share = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)[members]
        if missing <= 0 or share.sum() <= 0:
            continue
        wanted = missing * share / share.sum()
        copies = np.floor(wanted).astype(np.int64)
        left, rest = int(missing - copies.sum()), wanted - np.floor(wanted)
        if left and rest.sum() > 0:
            copies[random.choice(len(members), size=left, replace=False, p=_filled(rest, left))] += 1
        extra.append(np.repeat(members, copies))
    return np.concatenate([rows, *extra]) if extra else rows


def _filled(rest: npt.NDArray[np.float64], wanted: int) -> npt.NDArray[np.float64]:
    """Chances in proportion to `rest`, with enough of them above zero to draw `wanted` without replacement."""
    if np.count_nonzero(rest) < wanted:
        rest = rest + 1e-9
    chances: npt.NDArray[np.float64] = rest / rest.sum()
    return chances
