"""Parts of the loop alone: its rows, its rules, its processes, its page."""

import csv
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from config.settings import Loop, load_settings
from models.errors import UserError
from pipelines.loop import page, parts
from pipelines.loop.material import NEW_CHAPTERS, Material, of_files, synthetic
from pipelines.loop.story import Event, Story, _here, recovered, risen
from pipelines.loop.stream import Outcome

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return synthetic(tmp_path_factory.mktemp("rows"), Loop(base_rows=600, judged_rows=100))


def test_judged_rows_are_in_no_other_file_or_stream(material: Material) -> None:
    sent = {row.description for row in (*material.before, *material.after)}
    sent |= {row["description"] for file in (material.base, material.shifted) for row in rows_of(file)}
    for file in (material.judged, material.judged_shifted):
        judged = {row["description"] for row in rows_of(file)}
        assert len(judged) >= 95
        assert not judged & sent


def test_new_goods_come_only_with_the_shift(material: Material) -> None:
    assert not [row for row in material.before if row.hs6[:2] in NEW_CHAPTERS]
    new = [row for row in material.after if row.hs6[:2] in NEW_CHAPTERS]
    assert len(new) == len(material.after) / 2


def test_given_files_are_cut_by_text(tmp_path: Path, material: Material) -> None:
    settings = load_settings(None, {}, [f"nomenclature.path={material.nomenclature}"])
    cut = of_files(tmp_path, settings, [str(material.base)], [str(material.shifted)])
    again = of_files(tmp_path / "again", settings, [str(material.base)], [str(material.shifted)])
    assert [rows_of(getattr(cut, n)) for n in ("base", "judged_shifted")] == [
        rows_of(getattr(again, n)) for n in ("base", "judged_shifted")
    ]
    files = (cut.base, cut.shifted, cut.judged, cut.judged_shifted)
    texts = [{row["description"] for row in rows_of(file)} for file in files]
    texts.append({row.description for row in cut.before})
    for number, one in enumerate(texts):
        assert one
        for other in (*texts[:number], *texts[number + 1 :]):
            # The stream after the shift is the file of the shifted rows.
            assert not one & other


def test_given_files_with_too_few_rows_are_refused(tmp_path: Path, material: Material) -> None:
    few = tmp_path / "few.csv"
    few.write_text("description,code\n" + "".join(f"cotton shirt {n},610910\n" for n in range(20)))
    with pytest.raises(UserError, match="--data"):
        of_files(tmp_path, load_settings(None, {}), [str(few)], [str(material.shifted)])


def test_what_others_share_keeps_its_model(tmp_path: Path, material: Material) -> None:
    alone = _here(load_settings(None, {}), tmp_path / "20260301-120000", material)
    assert alone.registry.model == "hscode"
    assert alone.registry.uri == f"sqlite:///{tmp_path}/20260301-120000/mlflow.db"
    shared = _here(load_settings(None, {}, ["registry.uri=http://mlflow"]), tmp_path / "20260301-120000", material)
    assert shared.registry.model == "hscode-loop-20260301-120000"


def test_recovered_is_the_share_of_the_loss_won_back() -> None:
    def told(lost: float, now: float | None, best: float) -> Any:
        return {
            "after_shift": {"value": lost},
            "after_retraining": None if now is None else {"value": now},
            "reference": {"value": best},
        }

    assert recovered(told(0.4, 0.7, 0.8)) == pytest.approx(0.75)
    assert recovered(told(0.4, 0.3, 0.8)) == pytest.approx(-0.25)
    assert recovered(told(0.4, None, 0.8)) is None
    assert recovered(told(0.8, 0.8, 0.8)) is None


def test_risen_is_the_most_drift_on_either_side_of_the_shift() -> None:
    story, began = Story(lambda event: None), BEGAN.timestamp()
    points = {"1": [(began, 0.0), (began + 10, 0.02), (began + 20, 0.3)], "2": [(began + 25, 0.1)]}
    assert risen(points, story) == {"before_shift": 0.3, "after_shift": None}
    story.add("shift", at=BEGAN + timedelta(seconds=20))
    assert risen(points, story) == {"before_shift": 0.02, "after_shift": 0.3}
    assert risen({}, story) == {"before_shift": None, "after_shift": None}


class Started(parts.Parts):
    """Parts that start nothing."""

    def start(self, name: str, command: Any, environment: Any = None) -> None:
        self.command = list(command)

    def wait(self, name: str, ready: Any, seconds: float) -> None:
        pass


def test_only_times_of_the_clusters_rules_change(tmp_path: Path) -> None:
    made = Started(tmp_path)
    parts.start_prometheus(made, Loop(sustained_seconds=10, scrape_seconds=2), {"hscode-monitor": 1}, 2)
    ours = json.loads((tmp_path / "prometheus" / "rules.yaml").read_text())
    theirs = yaml.safe_load((parts.MONITORING / "rules.yaml").read_text())
    changed = 0
    for mine, other in zip(ours["groups"], theirs["groups"], strict=True):
        assert mine.pop("interval") == "2s"
        other.pop("interval", None)
        for rule, cluster in zip(mine["rules"], other["rules"], strict=True):
            changed += rule.pop("for", "") != cluster.pop("for", "")
        assert mine == other
    assert changed > 3


def test_alertmanager_speaks_to_our_trigger_with_its_token(tmp_path: Path) -> None:
    parts.start_alertmanager(Started(tmp_path), Loop(), "http://127.0.0.1:1234", tmp_path / "token")
    config = json.loads((tmp_path / "alertmanager" / "alertmanager.yaml").read_text())
    hooks = [hook for receiver in config["receivers"] for hook in receiver.get("webhook_configs", ())]
    assert [hook["url"] for hook in hooks] == ["http://127.0.0.1:1234/alerts"]
    assert hooks[0]["http_config"]["authorization"]["credentials_file"] == str(tmp_path / "token")


def test_a_missing_program_is_one_line_that_says_how_to_install_it() -> None:
    with pytest.raises(UserError, match="apt-get install prometheus prometheus-alertmanager"):
        parts.program("no-such-program-anywhere")


SLEEPER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True); "
CHILD = "import time; time.sleep(600)"


def test_left_all_parts_are_stopped_with_what_they_started(tmp_path: Path) -> None:
    with parts.Parts(tmp_path) as running:
        code = SLEEPER.format(child=CHILD) + "print('up', flush=True); time.sleep(600)"
        running.start("one", [sys.executable, "-c", code])
        running.wait("one", lambda: "up" in running.output("one"), 60)
        mine = [p for p in psutil.Process().children(recursive=True) if "time.sleep(600)" in " ".join(p.cmdline())]
        assert len(mine) == 2
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert not alive


def test_a_part_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with parts.Parts(tmp_path) as running:
        running.start("one", [sys.executable, "-c", "print('no room'); raise SystemExit(3)"])
        with pytest.raises(parts.PartFailed, match=r"one ended with exit code 3: no room \(log: .*one.log\)"):
            running.wait("one", lambda: False, 60)


def test_the_page_stands_alone_and_calls_itself_synthetic() -> None:
    story = Story(lambda event: None)
    for number, name in enumerate(("stream", "shift", "alert", "run", "run_ended", "canary", "promoted", "end")):
        story.add(name, f"<detail {number}>", BEGAN + timedelta(seconds=20 * number))
        story.add(name, f"<detail {number}>")
    assert len(story.events) == 8
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "digits": 6, "rows": 800, "classes": 90, "classes_known": 150}
    figure |= {"source": ["synthetic"], "version": "hscode 1"}
    summary = {
        "home": "here", "synthetic": True, "runs_started": 1, "promoted": True, "loss_recovered_ratio": 0.8,
        "requests": 2000, "unanswered": 0, "corrections": 700, "decisions": [], "lineage": None,
        "drift": {"before_shift": None, "after_shift": 0.31},
        "accuracies": dict.fromkeys(page.ACCURACIES, figure) | {"after_retraining": None},
        "events": [{**asdict(each), "at": each.at.isoformat()} for each in story.events],
    }  # fmt: skip
    outcomes = [Outcome(BEGAN + timedelta(seconds=n / 10), "12"[n > 700], n % 3 > 0) for n in range(1400)]
    seen: page.Series = {name: {"1": [(BEGAN.timestamp() + n, 0.1) for n in range(9)]} for name in page.QUERIES}
    text = page.render(summary, outcomes, seen)
    assert text == page.render(summary, outcomes, seen)
    assert "Synthetic rows." in text
    assert "– → 0.31" in text
    assert "&lt;detail 3&gt;" in text
    assert "<svg" in text
    assert 'src="' not in text
    assert "stylesheet" not in text


def test_events_are_noted_once_and_told() -> None:
    told: list[Event] = []
    story = Story(told.append)
    story.add("alert", "a", BEGAN)
    story.add("alert", "a")
    story.add("alert", "b")
    assert [each.detail for each in told] == ["a", "b"]
    assert story.happened("alert") == BEGAN
    assert story.happened("run") is None
