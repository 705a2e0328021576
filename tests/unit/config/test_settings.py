"""One settings tree: precedence, refusals that help, and a documented default file that cannot drift."""

from pathlib import Path

import pytest
import yaml

from config.render import as_yaml
from config.settings import Settings, load_settings
from models.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def test_set_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("split: {seed: 1, test_share: 0.2}\nanswer: {precision: 0.8}\n")
    environment = {"HSCODE__SPLIT__SEED": "2", "HSCODE__ANSWER__PRECISION": "0.85", "OTHER": "x"}
    tree = load_settings(file, environment, ["split.seed=3"])
    assert (tree.split.seed, tree.answer.precision, tree.split.test_share) == (3, 0.85, 0.2)
    assert tree.split.valid_share == Settings().split.valid_share


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("splt.seed=1", "unknown setting splt; the nearest is split"),
        ("split.sead=1", "unknown setting split.sead; the nearest is split.seed"),
        ("split.seed", "has no '='"),
        ("split.test_share=2", "setting split.test_share: Input should be less than 1"),
        ("split.seed.deep=2", "setting split.seed"),
        ("split.seed=[", "not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_line_that_helps(assignment: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        load_settings(None, {}, [assignment])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"), [("- a\n", "must be a mapping"), ("a: [\n", "not valid YAML"), (None, "cannot read settings")]
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "s.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said):
        load_settings(file, {}, [])


def test_the_tree_survives_the_way_through_a_pipeline_parameter() -> None:
    tree = load_settings(None, {}, ["data.sources=[{path: a.csv, weight: 2}]", "text.ngrams=[2,4]"])
    assert Settings.from_json(tree.to_json()) == tree


def test_the_digest_says_what_decides_a_model_and_nothing_else() -> None:
    base = Settings()
    assert load_settings(None, {}, ["registry.uri=http://x", "deploy.name=y"]).digest() == base.digest()
    assert load_settings(None, {}, ["split.seed=18"]).digest() != base.digest()


def test_the_default_file_is_what_the_code_says() -> None:
    assert (ROOT / "config" / "default.yaml").read_text() == as_yaml(Settings())


def test_every_named_settings_file_loads() -> None:
    for file in sorted((ROOT / "config").glob("*.yaml")):
        load_settings(file, {}, [])


def test_every_value_has_its_reason() -> None:
    def walk(section: type, path: str) -> list[str]:
        missing = []
        for name, field in section.model_fields.items():  # type: ignore[attr-defined]
            kind = field.annotation
            if isinstance(kind, type) and hasattr(kind, "model_fields"):
                missing += walk(kind, f"{path}{name}.")
            elif not field.description:
                missing.append(path + name)
        return missing

    assert walk(Settings, "") == []
    assert yaml.safe_load(as_yaml(Settings()))


def test_one_file_serves_with_and_without_a_pretrained_encoder() -> None:
    full = ROOT / "config" / "full.yaml"
    without = load_settings(full, {}, []).models.trained
    assert "encoder" not in without
    with_it = load_settings(full, {}, ["models.encoder.source=FOLDER"]).models.trained
    assert with_it == (*without[:-1], "encoder", "pool")
    assert load_settings(None, {}, ["models.kinds=[encoder]"]).models.trained == ("encoder",)


def test_settings_of_another_release_are_one_line() -> None:
    text = Settings().to_json().replace('"split":{', '"split":{"colour":"red",')
    with pytest.raises(UserError, match=r"^setting split\.colour: .*kfp\.image"):
        Settings.from_json(text)
