"""A pre-trained encoder with a trained head, and a pool with it as a member: real graphs, real bundles."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest

from config.settings import Settings, load_settings
from models.bundle import Bundle
from models.calibration import softmax
from models.errors import UserError
from models.nets.base import build
from models.nets.encoder import Directions, EncoderNet
from models.training import load_materials, train_bundle
from tests.unit.nets.parts import TEXTS, write_parts
from tests.unit.nets.tiny_encoder import save_tiny_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"), without=("851822",))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, parts: Path) -> Path:
    texts = pl.read_parquet(parts / "train.parquet")["description"].to_list()
    return save_tiny_encoder(tmp_path_factory.mktemp("tiny"), texts)


def settings(source: Path | str | None, *more: str) -> Settings:
    first = [] if source is None else [f"models.encoder.source={source}"]
    own = ("models.encoder.epochs=20", "models.encoder.learning_rate=0.01", "train.threads=1", "train.batch=8")
    return load_settings(None, None, [*first, *own, "train.patience=20", *more])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, parts: Path, tiny: Path) -> Bundle:
    out = tmp_path_factory.mktemp("bundle") / "encoder"
    train_bundle("encoder", parts, None, settings(tiny), out)
    return Bundle.load(out)


def test_learns_its_rows_and_says_in_the_card_whether_int8_was_kept(bundle: Bundle, parts: Path) -> None:
    rows = pl.read_parquet(parts / "train.parquet").filter(pl.col("label_kind") == "given")
    p = bundle.probabilities(rows["description"].to_list())
    right = np.array(bundle.classes)[p.argmax(axis=1)] == rows["hs6"].to_numpy()
    assert right.mean() > 0.8, bundle.card["training"]
    assert set(bundle.card["training"]["int8"]) == {"kept", "cosine", "valid_score", "valid_score_fp32"}
    assert bundle.card["training"]["int8"]["kept"]
    operators = {node.op_type for node in onnx.load(str(bundle.folder / "model.onnx")).graph.node}
    assert "MatMulInteger" in operators
    assert bundle.card["export"]["largest_difference"] < 1e-4


def test_a_text_is_answered_alike_alone_and_beside_others(bundle: Bundle) -> None:
    texts = ["red cotton tee", "a much longer text about black leather football boots with studs", "gift"]
    together = bundle.probabilities(texts)
    assert all((bundle.probabilities([text])[0] == row).all() for text, row in zip(texts, together, strict=True))


def test_a_subheading_without_an_example_is_answered_by_its_legal_text(bundle: Bundle) -> None:
    p = bundle.probabilities([TEXTS["851822"]])[0]
    assert bundle.classes[int(p.argmax())] == "851822"


def test_the_same_settings_and_seed_give_the_same_answers(
    bundle: Bundle, parts: Path, tiny: Path, tmp_path: Path
) -> None:
    train_bundle("encoder", parts, None, settings(tiny), tmp_path / "again")
    texts = ["blue acrylic jumper", "charger"]
    assert (Bundle.load(tmp_path / "again").probabilities(texts) == bundle.probabilities(texts)).all()


def test_embeddings_of_an_earlier_seed_are_found_again(
    parts: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = settings(tiny, "models.encoder.epochs=2", "models.encoder.int8=false")
    train_bundle("encoder", parts, None, plain, tmp_path / "without")
    monkeypatch.setenv("HSCODE_WORK", str(tmp_path / "work"))
    train_bundle("encoder", parts, None, plain, tmp_path / "first")
    assert len(list((tmp_path / "work").glob("embedded-*.npy"))) == 1
    train_bundle("encoder", parts, None, plain, tmp_path / "second")
    graphs = [(tmp_path / name / "model.onnx").read_bytes() for name in ("without", "first", "second")]
    assert graphs[0] == graphs[1] == graphs[2]


def test_the_head_is_the_mean_of_heads_that_differ(
    parts: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ("models.encoder.heads=2", "models.encoder.int8=false")
    fitted = []
    fit_one = EncoderNet._fit_one

    def seen(self: EncoderNet, head: Directions, *rest: Any) -> Any:
        told = fit_one(self, head, *rest)
        fitted.append((head.log_scale.exp() * head.weight).detach().numpy())
        return told

    monkeypatch.setattr(EncoderNet, "_fit_one", seen)
    monkeypatch.setattr("models.nets.encoder.DRAWN_BACK", (0.0,))
    net = EncoderNet(load_materials("encoder", parts, None, settings(tiny, *plain)))
    assert len(net.fit()["heads"]) == len(fitted) == 2
    assert np.abs(fitted[0] - fitted[1]).max() > 0.01
    whole, step = net.weight * net.scale[:, None], net.scale.max()
    np.testing.assert_allclose(whole, (fitted[0] + fitted[1]) / 2, atol=0.51 * step)


def test_a_killed_training_goes_on_with_the_head_that_it_was_at(
    parts: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    plain = settings(tiny, "models.encoder.epochs=2", "models.encoder.heads=2")
    train_bundle("encoder", parts, None, plain, tmp_path / "whole")
    monkeypatch.setenv("HSCODE_WORK", str(tmp_path / "work"))
    fit_one = EncoderNet._fit_one

    def killed(self: EncoderNet, head: Directions, *rest: Any) -> Any:
        if rest[3] == 1:
            raise Killed
        return fit_one(self, head, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderNet, "_fit_one", killed)
        with pytest.raises(Killed):
            train_bundle("encoder", parts, None, plain, tmp_path / "resumed")
    assert len(list((tmp_path / "work").rglob("checkpoint.pt"))) == 1
    train_bundle("encoder", parts, None, plain, tmp_path / "resumed")
    assert not list((tmp_path / "work").rglob("checkpoint.pt"))
    assert (tmp_path / "resumed/model.onnx").read_bytes() == (tmp_path / "whole/model.onnx").read_bytes()


def test_the_progress_rises_through_all_heads_and_ends_only_with_the_bundle(
    parts: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[float] = []
    for module in ("models.nets.loop", "models.nets.encoder", "models.training"):
        monkeypatch.setattr(f"{module}.report", lambda step, done, total, note: said.append(done / total))
    plain = settings(tiny, "models.encoder.epochs=2", "models.encoder.heads=2", "models.encoder.int8=false")
    train_bundle("encoder", parts, None, plain, tmp_path / "bundle")
    assert len(set(said)) > 4
    assert said == sorted(said)
    assert said[-1] < 1


@pytest.mark.parametrize(("limit", "value"), [("INT8_LOSS", -1.0), ("INT8_CLOSENESS", 1.1)])
def test_int8_that_loses_too_much_is_not_kept(
    parts: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    monkeypatch.setattr(f"models.nets.encoder.{limit}", value)
    few = settings(tiny, "models.encoder.epochs=2")
    train_bundle("encoder", parts, None, few, tmp_path / "without")
    monkeypatch.setenv("HSCODE_WORK", str(tmp_path / "work"))
    card = train_bundle("encoder", parts, None, few, tmp_path / "full")
    # The heads fitted on int8 lie in the work folder; they are not taken for those of the fp32 graph.
    assert (tmp_path / "full" / "model.onnx").read_bytes() == (tmp_path / "without" / "model.onnx").read_bytes()
    assert card["training"]["int8"]["kept"] is False
    full = Bundle.load(tmp_path / "full")
    np.testing.assert_allclose(
        full.probabilities(["red tee", "canvas shoes with a strap"])[0], full.probabilities(["red tee"])[0], atol=1e-6
    )


def test_two_encoders_stand_side_by_side_under_one_head(parts: Path, tiny: Path, tmp_path: Path) -> None:
    other = save_tiny_encoder(tmp_path / "other", ["cotton", "leather"], dimensions=16)
    both = settings(None, f"models.encoder.source=[{tiny}, {other}]")
    card = train_bundle("encoder", parts, None, both, tmp_path / "both")
    assert card["export"]["largest_difference"] < 1e-4
    found = Bundle.load(tmp_path / "both")
    assert set(found.encoder.encode(["cotton tee"])) == {"0.ids", "1.ids"}
    assert found.answer(["red cotton tee"])[0]["candidates"]
    train_bundle("svc", parts, None, both, tmp_path / "svc")
    members = {"svc": tmp_path / "svc", "encoder": tmp_path / "both"}
    train_bundle("pool", parts, None, both, tmp_path / "pool", members=members)
    assert Bundle.load(tmp_path / "pool").answer(["red cotton tee"])[0]["candidates"]


@pytest.mark.parametrize(
    ("source", "words"),
    [(None, "no pre-trained encoder is named"), ("/no/such/folder", "no such folder"), ("EMPTY", "not a readable")],
)
def test_a_source_that_is_no_encoder_is_a_users_mistake(
    source: str | None, words: str, parts: Path, tmp_path: Path
) -> None:
    if source == "EMPTY":
        source = str(tmp_path)
    with pytest.raises(UserError, match=words):
        build("encoder", load_materials("encoder", parts, None, settings(source)))


def test_a_pool_is_its_members_geometric_mean_at_each_level_in_one_bundle(
    bundle: Bundle, parts: Path, tmp_path: Path
) -> None:
    plain = settings(None, "models.pool.least_weight=0")
    train_bundle("svc", parts, None, plain, tmp_path / "svc")
    members = {"svc": tmp_path / "svc", "encoder": bundle.folder}
    card = train_bundle("pool", parts, None, plain, tmp_path / "pool", members=members)
    pool = Bundle.load(tmp_path / "pool")
    texts = ["red cotton tee", "lithium battery pack", "zzz"]
    found = {kind: Bundle.load(folder) for kind, folder in members.items()}
    said = {kind: np.maximum(softmax(one.logits(texts), one.temperature), 1e-30) for kind, one in found.items()}
    expected = np.ones((len(texts), len(pool.classes)))
    for digits in (2, 4, 6):
        above = {code: [other[: digits - 2] == code[: digits - 2] for other in pool.classes] for code in pool.classes}
        same = {code: [other[:digits] == code[:digits] for other in pool.classes] for code in pool.classes}
        mean = np.ones_like(expected)
        for kind, p in said.items():
            for i, code in enumerate(pool.classes):
                whole = p[:, above[code]].sum(axis=1) if digits > 2 else 1.0
                mean[:, i] *= (p[:, same[code]].sum(axis=1) / whole) ** card["training"]["members"][kind][str(digits)]
        for i, code in enumerate(pool.classes):
            distinct = {other[:digits]: j for j, other in enumerate(pool.classes) if above[code][j]}
            total = mean[:, list(distinct.values())].sum(axis=1) if digits > 2 else 1.0
            expected[:, i] *= mean[:, i] / total
    expected **= 1 / pool.temperature
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(pool.probabilities(texts), expected, atol=1e-4)
    assert pool.answer(["red cotton tee"])[0]["levels"]["2"]["code"] == "61"


def test_minilm_tokens_and_embeddings_are_those_of_its_own_library(minilm: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from models.text.pretrained import Embedder, load_pretrained, write_graph, write_int8

    texts = ["Cotton T-shirts, 12 pcs", "blot powder-medium 12gm/.42oz", "zara x body glove® contrast", "Crème brûlée"]
    tokeniser, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval()
    pretrained = load_pretrained(str(minilm), 40, mask_digits=False)
    assert [[i - 1 for i in pretrained.words.analyse(t)] for t in texts] == [tokeniser(t)["input_ids"] for t in texts]
    with torch.inference_mode():
        states = [model(**tokeniser(t, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for t in texts]
    expected = torch.nn.functional.normalize(torch.stack(states), dim=1).numpy()
    both = load_pretrained(str(minilm), 40, mask_digits=False, layers=(0.67, 1.0))
    with torch.inference_mode():
        ids = torch.from_numpy(both.words.encode(texts[:1])["ids"])
        fourth = model(**tokeniser(texts[0], return_tensors="pt"), output_hidden_states=True).hidden_states[4][0]
        found = both(ids)[0].numpy() * 2**0.5
    np.testing.assert_allclose(found[384:], expected[0], atol=1e-5)
    np.testing.assert_allclose(found[:384], torch.nn.functional.normalize(fourth.mean(dim=0), dim=0), atol=1e-5)
    full, int8 = tmp_path / "full.onnx", tmp_path / "int8.onnx"
    write_graph(pretrained, full)
    write_int8(full, pretrained.words, texts, int8)
    assert int8.stat().st_size < full.stat().st_size / 3
    alike = ["cotton shirt", "steel ball", "wool scarf"]
    assert len({pretrained.words.shape(text) for text in alike}) == 1  # so they are embedded together
    for path, closeness in ((full, 0.99999), (int8, 0.99)):
        embedder = Embedder(path, pretrained.words, 1)
        found = embedder.embed(texts)
        assert (found * expected).sum(axis=1).min() > closeness
        np.testing.assert_allclose(embedder.embed(alike), np.vstack([embedder.run([t]) for t in alike]), atol=1e-6)
