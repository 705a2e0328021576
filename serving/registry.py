"""The model registry: MLflow versions, the aliases champion and challenger, and the way back to data and code.

The same code speaks to an MLflow server and to SQLite. MLflow is imported on first use: it is heavy.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlparse

from models.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
BUNDLE = "bundle"
"""Artifact folder of a run that holds the model bundle."""
READY = "ready"
RUN_KEY = "run_key"


@dataclass(frozen=True)
class Version:
    """One registered model version."""

    model: str
    number: str
    source: str
    """Address of the bundle folder (file or s3), as the registry has it."""
    created: datetime
    run_id: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Model kind (textcnn, svc, ...)."""
        return self.tags.get("kind", "")

    @property
    def scores(self) -> dict[str, float]:
        """Test scores by name, as the training run wrote them."""
        return cast(dict[str, float], json.loads(self.tags.get("scores", "{}")))

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.model,
            "version": self.number,
            "kind": self.kind,
            "aliases": list(self.aliases),
            "created": self.created.isoformat(timespec="seconds"),
            "scores": self.scores,
            "source": self.source,
            "tags": {k: v for k, v in sorted(self.tags.items()) if k != "scores"},
        }


def home_uri(home: Path) -> str:
    """Address of the registry in a home folder: SQLite."""
    return f"sqlite:///{home.resolve()}/mlflow.db"


class Registry:
    """Versions of one registered model.

    `uri` is an MLflow tracking address (``sqlite:///...`` or http[s]); with SQLite, artifacts lie beside the database.
    """

    def __init__(self, uri: str, model: str = "hscode") -> None:
        self.uri, self.model = uri, model
        self._client: MlflowClient | None = None

    @property
    def client(self) -> "MlflowClient":
        """The MLflow client, made on first use; raises UserError where the server does not answer."""
        if self._client is None:
            # MLflow's own are seven. Each may take 120 s, which a server needs to hand a large bundle to its store.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
            # MLflow would report its use to its makers, and hold up the end of a process without a network by 9 s.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            import logging

            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    # -- writing ------------------------------------------------------------------------------------------------

    def register(
        self, bundle: Path, run_key: str, tags: Mapping[str, str], metrics: Mapping[str, float] | None = None
    ) -> Version:
        """Register the bundle folder as a new version, exactly once for a `run_key`.

        The version number is reserved first and written into the bundle's card, so that every answer can say it; a
        version counts only once its files are all there. Killed in between, the same call finishes the same version.
        """
        existing = self._by_run_key(run_key)
        if existing is not None and existing.tags.get(READY) == "true":
            return existing
        if existing is None:
            run_id = self._run_id(run_key)
            self._ensure_model()
            source = f"{self.client.get_run(run_id).info.artifact_uri}/{BUNDLE}"
            made = self.client.create_model_version(
                self.model, source=source, run_id=run_id, tags={RUN_KEY: run_key, READY: "false", **tags}
            )
            number = str(made.version)
        else:
            number, run_id = existing.number, existing.run_id
        for name, score in (metrics or {}).items():
            self.client.log_metric(run_id, name, score)
        with tempfile.TemporaryDirectory() as folder:
            stamped = Path(folder) / BUNDLE
            shutil.copytree(bundle, stamped)
            card_file = stamped / "card.json"
            card = json.loads(card_file.read_text(encoding="utf-8"))
            card["name"], card["version"] = self.model, number
            card_file.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            self.client.log_artifacts(run_id, str(stamped), BUNDLE)
        for key, value in {**tags, READY: "true"}.items():
            self.client.set_model_version_tag(self.model, number, key, value)
        self.client.set_terminated(run_id)
        return self.version(number)

    def set_alias(self, alias: str, number: str) -> None:
        """Point `alias` at a version (MLflow moves it atomically)."""
        self.client.set_registered_model_alias(self.model, alias, number)

    def delete_alias(self, alias: str) -> None:
        """Remove `alias` where it is set."""
        if self._number_of(alias) is not None:
            self.client.delete_registered_model_alias(self.model, alias)

    def tag(self, number: str, key: str, value: str) -> None:
        """Set one tag of a version."""
        self.client.set_model_version_tag(self.model, number, key, value)

    def promote(self, reference: str) -> Version:
        """Make a version champion; what was champion is remembered as its `replaced` tag, for a rollback."""
        version = self.resolve(reference)
        old = self._number_of(CHAMPION)
        if old == version.number:
            return version
        if old is not None:
            self.tag(version.number, "replaced", old)
        self.set_alias(CHAMPION, version.number)
        if self._number_of(CHALLENGER) == version.number:
            self.delete_alias(CHALLENGER)
        return self.version(version.number)

    def replaced_by_champion(self) -> Version:
        """The version that was champion before; raises UserError where the champion replaced none."""
        champion = self.resolve(CHAMPION)
        replaced = champion.tags.get("replaced")
        if replaced is None:
            raise UserError(f"version {champion.number} replaced no other", f"model {self.model}", "nothing changed")
        return self.version(replaced)

    # -- reading ------------------------------------------------------------------------------------------------

    def versions(self) -> list[Version]:
        """All complete versions, newest first."""
        if not self._model_exists():
            return []
        found = self.client.search_model_versions(f"name = '{self.model}'", max_results=1000)
        aliases = self._aliases()
        versions = [self._read(entry, aliases) for entry in found]
        return sorted((v for v in versions if v.tags.get(READY) == "true"), key=lambda v: -int(v.number))

    def version(self, number: str) -> Version:
        """One version by number; raises UserError naming those that exist."""
        from mlflow.exceptions import MlflowException

        try:
            return self._read(self.client.get_model_version(self.model, number), self._aliases())
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = ", ".join(v.number for v in self.versions()) or "none"
            raise UserError(f"no version {number}", f"model {self.model}", f"existing: {known}") from None

    def resolve(self, reference: str) -> Version:
        """A version by number or alias; raises UserError where there is none."""
        if reference.isdigit():
            return self.version(reference)
        number = self._number_of(reference)
        if number is None:
            raise UserError(
                f"no version has the alias {reference}", f"model {self.model}", "train one with: hscode run"
            )
        return self.version(number)

    def find(self, alias: str) -> Version | None:
        """The version with `alias`, or None."""
        number = self._number_of(alias)
        return None if number is None else self.version(number)

    def folder(self, reference: str, cache: Path) -> Path:
        """A local folder with the bundle of a version; downloaded into `cache` once where it is remote."""
        version = self.resolve(reference)
        parsed = urlparse(version.source)
        if parsed.scheme in ("", "file"):
            return Path(parsed.path)
        target = cache / self.model / version.number
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as work:
                got = self.client.download_artifacts(version.run_id, BUNDLE, work)
                Path(got).rename(target)
        return target

    def lineage(self, reference: str) -> dict[str, Any]:
        """The way back from a version: pipeline run, data, settings, code, parent version and canary."""
        version = self.resolve(reference)
        tags = version.tags
        parent = tags.get("parent_version")
        return {
            "version": version.number,
            "aliases": list(version.aliases),
            "kind": version.kind,
            "pipeline_run": tags.get("pipeline_run"),
            "run_key": tags.get(RUN_KEY),
            "mlflow_run": version.run_id,
            "triggered_by": tags.get("triggered_by"),
            "data_hash": tags.get("data_hash"),
            "settings_hash": tags.get("settings_hash"),
            "commit": tags.get("commit"),
            "edition": tags.get("edition"),
            "warm_start": json.loads(tags.get("warm_start", "null")),
            "bundle": version.source,
            "parent": self.lineage(parent) if parent else None,
        }

    # -- rim ----------------------------------------------------------------------------------------------------

    def _model_exists(self) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_registered_model(self.model)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.model)
        if found is not None:
            return cast(str, found.experiment_id)
        location = None
        if self.uri.startswith("sqlite:///"):
            location = (Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlflow-artifacts").as_uri()
        return cast(str, self.client.create_experiment(self.model, artifact_location=location))

    def _run_id(self, run_key: str) -> str:
        """The MLflow run of this `run_key`; honours a run that KFP (>= 2.17) injected as MLFLOW_RUN_ID."""
        injected = os.environ.get("MLFLOW_RUN_ID")
        if injected:
            return injected
        experiment = self._experiment()
        found = self.client.search_runs([experiment], f"tags.{RUN_KEY} = '{run_key}'", max_results=1)
        if found:
            return cast(str, found[0].info.run_id)
        return cast(str, self.client.create_run(experiment, tags={RUN_KEY: run_key}).info.run_id)

    def _by_run_key(self, run_key: str) -> Version | None:
        found = self.client.search_model_versions(f"name = '{self.model}'", max_results=1000)
        for entry in found:
            if entry.tags.get(RUN_KEY) == run_key:
                return self._read(entry, self._aliases())
        return None

    def _aliases(self) -> dict[str, list[str]]:
        by_number: dict[str, list[str]] = {}
        for alias, number in self.client.get_registered_model(self.model).aliases.items():
            by_number.setdefault(str(number), []).append(alias)
        return by_number

    def _number_of(self, alias: str) -> str | None:
        if not self._model_exists():
            return None
        number = self.client.get_registered_model(self.model).aliases.get(alias)
        return None if number is None else str(number)

    def _read(self, entry: Any, aliases: Mapping[str, list[str]]) -> Version:
        return Version(
            model=self.model,
            number=str(entry.version),
            source=entry.source,
            created=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
            run_id=entry.run_id,
            aliases=tuple(sorted(aliases.get(str(entry.version), ()))),
            tags=dict(entry.tags),
        )
