"""What every model kind owes: a bundle that answers as the net did, for any class, whatever stands beside a text."""

import json
from pathlib import Path

import numpy as np
import pytest

from config.settings import Settings
from models.bundle import Bundle
from models.calibration import softmax
from models.nets.base import VAGUE, build
from models.training import load_materials, train_bundle

KINDS = ("textcnn", "bilstm", "transformer", "dnn", "svc")
ASKED = ["cotton t-shirt", "Steel hooks, 12 pcs", "", "?", "running shoe blue running shoe", "zzyzx brnd trnrs", "дом"]


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest,
    parts: Path,
    embedding: Path,
    settings: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp(request.param) / "bundle"
    return out, train_bundle(request.param, parts, embedding, settings, out)


def test_a_bundle_is_whole_and_without_pickle(trained: tuple[Path, dict[str, object]]) -> None:
    folder, card = trained
    names = {file.name for file in folder.iterdir()}
    assert {"model.onnx", "text.json", "labels.json", "calibration.json", "card.json", "reference.json"} <= names
    assert all(file.suffix in (".onnx", ".json", ".npz") for file in folder.iterdir())
    assert json.loads((folder / "card.json").read_text()) == card


def test_classes_are_the_edition_and_the_vague_one_last(trained: tuple[Path, dict[str, object]]) -> None:
    bundle = Bundle.load(trained[0])
    assert bundle.classes[:-1] == sorted(bundle.classes[:-1])
    assert bundle.classes[-1] == VAGUE
    assert bundle.vague == len(bundle.classes) - 1
    assert "010121" in bundle.classes
    assert bundle.texts["64"]
    assert bundle.texts["6404"]


def test_rows_sum_to_one(trained: tuple[Path, dict[str, object]]) -> None:
    p = Bundle.load(trained[0]).probabilities(ASKED)
    assert p.shape == (len(ASKED), 7)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)


def test_a_text_is_answered_the_same_alone_and_in_company(trained: tuple[Path, dict[str, object]]) -> None:
    bundle = Bundle.load(trained[0])
    texts = [f"{a} {b}" for a in ASKED for b in ("", "cotton", "new trainers of rubber", "x" * 30)] * 3
    together = bundle.probabilities(texts)
    for n in range(0, len(texts), 5):
        assert bundle.probabilities([texts[n]])[0].tobytes() == together[n].tobytes()
    assert bundle.probabilities(texts[::-1])[::-1].tobytes() == together.tobytes()


def test_it_learns_its_rows(trained: tuple[Path, dict[str, object]]) -> None:
    bundle = Bundle.load(trained[0])
    best = bundle.probabilities(["steel hook", "polyester t-shirt"]).argmax(axis=1)
    if bundle.kind == "svc":  # two epochs of a net are a start only
        assert [bundle.classes[i] for i in best] == ["732690", "610990"]


def test_before_and_after_export(parts: Path, embedding: Path, settings: Settings, tmp_path: Path) -> None:
    for kind in KINDS:
        net = build(kind, load_materials(kind, parts, embedding, settings))
        net.fit()
        net.export(tmp_path / "model.onnx")
        train_bundle(kind, parts, embedding, settings, tmp_path / "bundle")
        bundle = Bundle.load(tmp_path / "bundle")
        before, after = softmax(net.logits(ASKED)), softmax(bundle.logits(ASKED))
        assert np.abs(before - after).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes(kind: str, parts: Path, embedding: Path, settings: Settings, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_bundle(kind, parts, embedding, settings, tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        if file.name != "card.json":  # which says how long it took
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_another_seed_another_net(parts: Path, embedding: Path, settings: Settings, tmp_path: Path) -> None:
    nets = [build("textcnn", load_materials("textcnn", parts, embedding, settings, seed=s)) for s in (1, 2)]
    for net in nets:
        net.fit()
    assert np.abs(nets[0].logits(ASKED) - nets[1].logits(ASKED)).max() > 0


@pytest.mark.parametrize("kind", ["textcnn", "bilstm", "transformer", "dnn"])
def test_a_nets_own_body_takes_part(kind: str, parts: Path, embedding: Path, settings: Settings) -> None:
    """Else all nets would be one model: the mean of a text's words, held against class centroids."""
    import torch

    net = build(kind, load_materials(kind, parts, embedding, settings))
    net.fit()
    module = net.module.eval()
    ids = torch.from_numpy(net.encoder.encode(ASKED[:2])["ids"])
    with torch.inference_mode():
        moved = module.correction(module.body(*module.vectors(ids)))
    assert float(moved.norm(dim=1).min()) > 1e-3
