"""Bayesian hyper-parameter search for any kind: optuna's TPE with pruning, a stored study that resumes.

A trial trains the kind on the training part and scores it on valid (mean top-1 of the three levels); the test part is
never read. The best settings come out as a config file, so that a later run needs no search.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from config.settings import Settings, Tune
from models.data.files import whole_folder, write_json
from models.errors import UserError
from models.nets.base import build, mean_accuracy
from models.progress import report
from models.training import load_materials


@dataclass(frozen=True)
class Choice:
    """A setting that is searched: its place in the tree and its range; `options` instead of a range where given."""

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    options: tuple[Any, ...] = ()

    def draw(self, trial: Any) -> Any:
        """A value, as optuna suggests it."""
        if self.options:
            return trial.suggest_categorical(self.key, list(self.options))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


_NETS = (
    Choice("train.learning_rate", 3e-4, 8e-3, log=True),
    Choice("train.start_scale", 5.0, 30.0),
    Choice("train.dropout", 0.0, 0.6),
    Choice("train.word_dropout", 0.0, 0.5),
    Choice("train.upsample", 0.0, 0.8),
    Choice("train.weight_decay", 1e-4, 0.3, log=True),
    Choice("train.window", 5, 24),
)
SPACES: Mapping[str, tuple[Choice, ...]] = {
    "textcnn": (
        *_NETS,
        Choice("models.textcnn.filters", options=(64, 128, 256)),
        Choice("models.textcnn.dropout", 0.0, 0.6),
    ),
    "bilstm": (
        *_NETS,
        Choice("models.bilstm.units", options=(64, 128, 192)),
        Choice("models.bilstm.dropout", 0.0, 0.6),
    ),
    "transformer": (
        *_NETS,
        Choice("models.transformer.layers", 1, 3),
        Choice("models.transformer.dropout", 0.0, 0.5),
    ),
    "dnn": (
        *_NETS,
        Choice("models.dnn.layers", 1, 3),
        Choice("models.dnn.width", options=(128, 256, 512)),
        Choice("models.dnn.dropout", 0.0, 0.6),
    ),
    "svc": (Choice("models.svc.cost", 0.05, 5.0, log=True), Choice("models.svc.min_rows", 1, 4)),
    "encoder": (
        Choice("models.encoder.learning_rate", 3e-4, 1e-2, log=True),
        Choice("models.encoder.scale", 8.0, 40.0),
        Choice("models.encoder.dropout", 0.0, 0.5),
        Choice("train.upsample", 0.0, 0.8),
    ),
}
"""What is searched for each kind. A pool has nothing to search: its weights are fitted."""


def tune(
    kind: str, split_dir: Path, embedding_dir: Path | None, settings: Settings, out: Path, storage: Path | None = None
) -> dict[str, Any]:
    """Search the settings of `kind` within the budget of `settings.tune`; writes into `out` best.yaml (a config file
    with what was found), tuning.json (all trials) and pictures (history.svg, slices.svg); returns the content of
    tuning.json.

    `storage` is the folder of the stored study (default: beside `out`): with it a search that was stopped goes on. A
    trial that was under way counts again. Raises UserError for a kind without a space.
    """
    import optuna

    if kind not in SPACES:
        raise UserError(f"kind {kind!r} has nothing to search", "tune.kinds", f"choose of {', '.join(SPACES)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    budget, base = settings.tune, load_materials(kind, split_dir, embedding_dir, settings)
    # A larger budget goes on with the same study.
    unbudgeted = settings.model_copy(update={"tune": Tune()})
    storage = storage or out.parent / f"{out.name}.study"
    storage.mkdir(parents=True, exist_ok=True)
    data_hash = json.loads((split_dir / "split.json").read_text(encoding="utf-8"))["data_hash"]
    study = optuna.create_study(
        storage=f"sqlite:///{storage / 'study.db'}",
        study_name=f"{kind} {unbudgeted.digest()} {data_hash[:16]}",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=budget.random_trials, n_warmup_steps=1),
    )
    finished = _finished(study)
    # Another seed for each resumption, or the first draws would come again.
    study.sampler = optuna.samplers.TPESampler(
        seed=settings.train.seed + len(finished), n_startup_trials=budget.random_trials, multivariate=True
    )
    if not study.trials:
        study.enqueue_trial({choice.key: _value(settings, choice.key) for choice in SPACES[kind]}, skip_if_exists=True)
    began, spent = time.monotonic(), sum(trial.duration.total_seconds() for trial in finished if trial.duration)

    def objective(trial: Any) -> float:
        tree = with_values(settings, {choice.key: choice.draw(trial) for choice in SPACES[kind]})
        again = tree.train.upsample != settings.train.upsample
        materials = load_materials(kind, split_dir, embedding_dir, tree) if again else base.with_settings(tree)
        net = build(kind, replace(materials, work=None, step=f"tune-{kind}-trial"))

        def watch(epoch: int, score: float) -> None:
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        net.fit(watch)
        valid = base.valid
        return mean_accuracy(base, net.logits(valid.texts), valid.codes)

    while len(finished) < budget.trials and not _spent(budget.seconds, spent + time.monotonic() - began):
        best = f"best {study.best_value:.3f} on valid" if any(t.value is not None for t in finished) else ""
        report(f"tune-{kind}", len(finished), budget.trials, best)
        study.optimize(objective, n_trials=1, catch=())
        finished = _finished(study)
    result = _result(kind, study, finished)
    with whole_folder(out) as folder:
        write_json(folder / "tuning.json", result)
        text = yaml.safe_dump(_tree(result["best"]["values"]), sort_keys=True)
        heading = f"# Found for {kind} in {len(finished)} trials, {result['best']['score']:.4f} on valid.\n"
        (folder / "best.yaml").write_text(heading + text, encoding="utf-8")
        _pictures(study, folder)
    return result


def tuned(settings: Settings, folder: Path) -> Settings:
    """`settings` with what the search in `folder` (as `tune` left it) found best."""
    result = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))
    return with_values(settings, result["best"]["values"])


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """`settings` with values at places such as ``train.dropout``."""
    content = settings.model_dump(mode="json")
    for key, value in values.items():
        branch = content
        *path, last = key.split(".")
        for part in path:
            branch = branch[part]
        branch[last] = value
    return Settings.model_validate(content)


def _value(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _spent(seconds: float | None, spent: float) -> bool:
    return seconds is not None and spent >= seconds


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.is_finished() and trial.state.name != "FAIL"]


def _result(kind: str, study: Any, finished: Sequence[Any]) -> dict[str, Any]:
    complete = [trial for trial in finished if trial.state.name == "COMPLETE"]
    if not complete:
        raise UserError("no trial was finished within the budget", "tune", "allow more trials or seconds")
    best = max(complete, key=lambda trial: (trial.value, -trial.number))
    return {
        "kind": kind,
        "trials": [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "score": trial.value,
                "values": trial.params,
                "epochs": len(trial.intermediate_values),
                "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
            }
            for trial in finished
        ],
        "best": {"number": best.number, "score": best.value, "values": best.params},
    }


def _tree(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        branch = tree
        *path, last = key.split(".")
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def _pictures(study: Any, folder: Path) -> None:
    """history.svg: score by trial and the best so far; slices.svg: score by value of each setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    trials = [trial for trial in _finished(study) if trial.value is not None]
    numbers, scores = [trial.number for trial in trials], [trial.value for trial in trials]
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    axes.plot(numbers, scores, "o", color="#4477aa", markersize=4, label="trial")
    axes.plot(numbers, [max(scores[: i + 1]) for i in range(len(scores))], color="#ee6677", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("score on valid")
    axes.legend(frameon=False)
    _save(figure, folder / "history.svg")
    keys = sorted({key for trial in trials for key in trial.params})
    figure, grid = pyplot.subplots(
        -(-len(keys) // 3), 3, figsize=(9, 2.4 * -(-len(keys) // 3)), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, key in zip(grid.flat, keys, strict=False):
        shown = [(trial.params[key], trial.value) for trial in trials if key in trial.params]
        axes.plot([value for value, _ in shown], [score for _, score in shown], "o", color="#4477aa", markersize=4)
        axes.set_xlabel(key)
    for axes in grid.flat[len(keys) :]:
        axes.set_visible(False)
    _save(figure, folder / "slices.svg")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot, rc_context

    # Without a date and with fixed ids the same study gives the same bytes.
    with rc_context({"svg.hashsalt": "hscode"}):
        figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
