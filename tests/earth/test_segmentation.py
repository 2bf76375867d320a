"""Segmentation: losses by hand, metrics against scikit-learn, models by name, and the whole way from polygons to pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, jaccard_score, precision_score, recall_score

from shoal.errors import UsageError
from shoal_earth.pictures import COLOURS, choose
from shoal_earth.rasters.chips import ChipRules, make_chips
from shoal_earth.rasters.shards import ShardReader
from shoal_earth.rasters.statistics import normalise
from shoal_earth.segmentation.dataset import ChipExamples
from shoal_earth.segmentation.losses import LOSSES, build_loss, cross_entropy, dice, focal, lovasz, miou
from shoal_earth.segmentation.metrics import confusion, scores, trivial_scores
from shoal_earth.segmentation.models import build_model
from shoal_earth.segmentation.pictures import save_panels
from shoal_earth.training.checkpoint import load_checkpoint, save_checkpoint


def two_pixels() -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of class 1: 0.8 where the truth is 1, 0.4 where it is 0; a third pixel is ignored."""
    p = torch.tensor([0.8, 0.4, 0.9])
    logits = torch.stack([torch.log(1 - p), torch.log(p)]).reshape(1, 2, 1, 3)
    return logits, torch.tensor([[[1, 0, 255]]])


def test_losses_by_hand() -> None:
    logits, labels = two_pixels()
    ce = -(math.log(0.8) + math.log(0.6)) / 2
    assert float(cross_entropy(logits, labels)) == pytest.approx(ce, rel=1e-5)
    # Overlap 0.8; predicted 0.8 + 0.4, true 1.
    overlap = 1 - 2 * 0.8 / (1.2 + 1)
    assert float(dice(logits, labels)) == pytest.approx(overlap, rel=1e-5)
    hard = -(0.2**2 * math.log(0.8) + 0.4**2 * math.log(0.6)) / 2
    assert float(focal(logits, labels)) == pytest.approx(hard, rel=1e-5)
    assert float(build_loss("ce+dice")(logits, labels)) == pytest.approx(ce + overlap, rel=1e-5)
    # Foreground: overlap 0.8 of 0.8 + 0.4 + 1 - 0.8; background: 0.6 of 0.2 + 0.6 + 1 - 0.6.
    assert float(miou(logits, labels)) == pytest.approx(1 - (0.8 / 1.4 + 0.6 / 1.2) / 2, rel=1e-5)
    # Errors of class 1 in order: 0.4 (wrongly there; costs IoU 1/2), then 0.2 (missed; the other half). Of class 0: 0.4 is the
    # true pixel, which alone is worth all of the IoU.
    assert float(lovasz(logits, labels)) == pytest.approx(((0.4 / 2 + 0.2 / 2) + 0.4) / 2, rel=1e-5)
    with pytest.raises(UsageError, match=r"(?s)loss \"tversky\".*ce\+dice"):
        build_loss("ce+tversky")


def test_a_loss_over_scales_sums_them_with_their_weights() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 4:] = 1
    labels[:, 0] = 255
    answers = [torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(side)) for side in (2, 4, 8)]
    small = [labels[:, :: 8 // side, :: 8 // side] for side in (2, 4, 8)]
    for name in LOSSES:
        loss = build_loss(name)
        each = [float(loss(answer, truth)) for answer, truth in zip(answers, small, strict=True)]
        wanted = 0.5 * each[0] + 0.8 * each[1] + each[2]
        assert float(loss(answers, labels)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_ignored_pixels_change_nothing_and_all_ignored_is_zero(name: str) -> None:
    loss = build_loss(name)
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    labels[:, 5:] = 255
    assert float(loss(logits, labels)) == pytest.approx(float(loss(logits[:, :, :5], labels[:, :5])), rel=1e-6)
    gradient = torch.autograd.grad(loss(logits, labels), logits)[0]
    assert gradient[:, :, 5:].abs().max() == 0
    assert gradient[:, :, :5].abs().max() > 0
    assert float(loss(logits, torch.full_like(labels, 255))) == 0


def test_perfect_answers_cost_nothing() -> None:
    labels = torch.randint(0, 2, (1, 8, 8), generator=torch.Generator().manual_seed(1))
    logits = 50.0 * torch.nn.functional.one_hot(labels, 2).movedim(-1, 1)
    for name in LOSSES:
        assert float(build_loss(name)(logits, labels)) == pytest.approx(0, abs=1e-5)


def test_metrics_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice([0, 1, 2, 255], size=(5, 30, 30), p=[0.6, 0.2, 0.1, 0.1])
    predicted = np.where(
        rng.random(truth.shape) < 0.7, np.where(truth == 255, 0, truth), rng.integers(0, 3, truth.shape)
    )
    # Summed over unequal batches, as over a split.
    parts = [slice(0, 1), slice(1, 5)]
    matrix = sum(confusion(torch.from_numpy(predicted[p]), torch.from_numpy(truth[p]), 3) for p in parts)
    got = scores(matrix, ["ground", "house", "road"], "test")
    y, z = truth[truth != 255], predicted[truth != 255]
    for name, function in (
        ("iou", jaccard_score),
        ("f1", f1_score),
        ("precision", precision_score),
        ("recall", recall_score),
    ):
        each = function(y, z, average=None)
        assert got[f"test/{name}"] == pytest.approx(each[1:].mean())
        assert got[f"test/m{name}"] == pytest.approx(each.mean())
        for k, label in enumerate(("ground", "house", "road")):
            assert got[f"test/{name}/{label}"] == pytest.approx(each[k])
    assert got["test/miou"] == pytest.approx(jaccard_score(y, z, average="macro"))
    assert got["test/kappa"] == pytest.approx(cohen_kappa_score(y, z))
    assert got["test/accuracy"] == pytest.approx(accuracy_score(y, z))
    trivial = trivial_scores(matrix, ["ground", "house", "road"], "test/trivial")
    assert trivial["test/trivial/accuracy"] == pytest.approx((y == 0).mean())
    constant = max(jaccard_score(y, np.full_like(y, k), labels=[1, 2], average=None).sum() / 2 for k in (1, 2))
    assert trivial["test/trivial/iou"] == pytest.approx(constant)
    assert trivial["test/trivial/kappa"] == 0
    assert not any(key.count("/") > 2 for key in trivial)


def test_a_class_that_is_nowhere_counts_in_no_mean() -> None:
    matrix = confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), 3)
    got = scores(matrix, ["a", "b", "c"], "x")
    assert got["x/iou"] == got["x/iou/b"] == 0.5
    assert "x/iou/c" not in got
    assert got["x/miou"] == pytest.approx((0.5 + 0.5) / 2)


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips of a scene where bright squares are houses: anything that learns finds them."""
    from geotiff import write_geotiff

    from .conftest import square, write_polygons

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    values = rng.integers(100, 400, (2, 128, 192)).astype(np.uint16)
    shapes = []
    for _ in range(40):
        row, column, side = int(rng.integers(0, 114)), int(rng.integers(0, 178)), int(rng.integers(6, 14))
        values[:, row : row + side, column : column + side] = rng.integers(700, 1000, (2, side, side))
        shapes.append(square(row, column, side))
    raster, polygons = write_geotiff(folder / "town.tif", values), write_polygons(folder / "houses.gpkg", shapes)
    make_chips([raster], [polygons], folder / "chips", ChipRules(size=32, stride=16, foreground="house"))
    return folder / "chips"


def test_examples_are_normalised_and_varied_together(chips: Path) -> None:
    plain, varied = ChipExamples(chips, "train"), ChipExamples(chips, "train", augment="flips")
    image, label = plain.get(0, np.random.default_rng(0))
    with ShardReader(chips) as reader:
        place = next(i for i, chip in enumerate(reader.chips) if chip["split"] == "train")
        np.testing.assert_array_equal(image, normalise(reader.read(place, "image"), reader.index["scale"]))
        np.testing.assert_array_equal(label, reader.read(place, "label"))
    seen = set()
    for n in range(60):
        other, mask = varied.get(0, np.random.default_rng(n))
        # Houses stay bright, wherever they are turned to.
        assert float(other[0][mask == 1].min()) > float(other[0][mask == 0].max())
        assert torch.equal(other.sort().values.flatten().sort().values, image.flatten().sort().values)
        seen.add(other.numpy().tobytes())
    assert len(seen) == 8
    full = ChipExamples(chips, "train", augment="full")
    assert not torch.equal(full.get(0, np.random.default_rng(1))[0], full.get(0, np.random.default_rng(2))[0])
    for bad in ({"split": "train", "augment": "much"}, {"split": "all"}):
        with pytest.raises(UsageError):
            ChipExamples(chips, **bad)


@pytest.mark.parametrize(
    ("name", "encoder", "options"),
    [
        ("unet", "tu-test_resnet", {"depth": 4, "width": 32}),
        ("unetplusplus", "tu-test_resnet", {"depth": 3, "width": 32}),
        ("fpn", "tu-test_resnet", {"width": 32}),
        ("deeplabv3plus", "tu-resnet10t", {"width": 32}),
        ("linknet", "tu-test_resnet", {"depth": 4}),
        ("segformer", "tu-test_resnet", {"width": 32}),
    ],
)
def test_models_by_name(name: str, encoder: str, options: dict) -> None:
    model = build_model(name, encoder, bands=4, classes=3, **options).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 4, 64, 64)).shape == (1, 3, 64, 64)


def test_models_that_cannot_be_had_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"(?s)architecture \"unett\".*unet"):
        build_model("unett", "resnet18", bands=1, classes=2)
    with pytest.raises(UsageError, match=r"(?s)no encoder \"resnet1999\".*Did you mean resnet"):
        build_model("unet", "resnet1999", bands=1, classes=2)
    with pytest.raises(UsageError, match="cannot be chosen"):
        build_model("linknet", "tu-test_resnet", bands=1, classes=2, width=32)
    with pytest.raises(UsageError, match=r"(?s)2 times the image's size.*Leave --depth out"):
        build_model("fpn", "tu-test_resnet", bands=1, classes=2, depth=4)
    # No network: the hub's own switch.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"(?s)\"imagenet\" of tu-test_resnet.*--weights none"):
        build_model("unet", "tu-test_resnet", bands=1, classes=2, weights="imagenet")
    with pytest.raises(UsageError, match="no such file of weights"):
        build_model("unet", "tu-test_resnet", bands=1, classes=2, weights=str(tmp_path / "none.pth"))
    source = build_model("unet", "tu-test_resnet", bands=1, classes=2)
    torch.save(source.encoder.state_dict(), tmp_path / "own.pth")
    filled = build_model("unet", "tu-test_resnet", bands=1, classes=2, weights=str(tmp_path / "own.pth"))
    assert all(torch.equal(a, b) for a, b in zip(source.encoder.parameters(), filled.encoder.parameters(), strict=True))
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="are not weights of the encoder"):
        build_model("unet", "tu-test_resnet", bands=1, classes=2, weights=str(tmp_path / "other.pth"))


def test_pictures_show_hits_and_mistakes(tmp_path: Path) -> None:
    truth = np.zeros((64, 64), np.uint8)
    truth[:32, :32] = 1
    truth[:, 60:] = 255
    prediction = np.zeros((64, 64), np.uint8)
    prediction[16:48, :32] = 1
    save_panels(tmp_path, np.zeros((1, 64, 64)), truth, prediction)
    drawn = np.asarray(Image.open(tmp_path / "prediction.png"))
    assert drawn.shape == (256, 256, 3)
    for row, name in ((4, "missed"), (24, "hit"), (40, "false")):
        np.testing.assert_array_equal(drawn[4 * row, 4 * 8], np.round(0.5 * np.array(COLOURS[name])))
    assert drawn[240, 160].max() == 0
    assert {p.name for p in tmp_path.iterdir()} == {"input.png", "truth.png", "prediction.png"}
    shares = [0.01, 0.5, 0.1, 0.3, 0.2, 0.0]
    assert choose(shares, 2) == [1, 2]
    assert choose(shares, 1) == [1]
    assert choose(shares, 0) == []
    assert choose(shares, 9) == [1, 3, 4, 2]
    assert choose([0.0, 0.0], 2) == [0, 1]


def test_from_chips_to_scores_and_pictures(chips: Path, tmp_path: Path, cli) -> None:
    small = ["--model", "unet", "--encoder", "tu-test_resnet", "--depth", 3, "--width", 16, "--device", "cpu"]
    train = ["segmentation", "train", "--chips", chips, *small, "--epochs", 6, "--lr", 5e-3, "--batch-size", 4]
    code, out, error = cli(*train, "--out", tmp_path / "a")
    assert (code, out.startswith("best: val/iou")) == (0, True), error
    assert {p.name for p in (tmp_path / "a").iterdir()} >= {"best.pt", "last.pt", "metrics.jsonl"}
    best = load_checkpoint(tmp_path / "a" / "best.pt")
    assert best["meta"]["classes"] == ["background", "house"]
    # Same seed, same weights.
    assert cli(*train, "--out", tmp_path / "b")[0] == 0
    again = load_checkpoint(tmp_path / "b" / "best.pt")
    assert all(torch.equal(value, again["model"][name]) for name, value in best["model"].items())

    code, out, error = cli(
        "segmentation",
        "test",
        "--chips",
        chips,
        "--checkpoint",
        tmp_path / "a",
        "--out",
        tmp_path / "s",
        "--pictures",
        2,
    )
    assert code == 0, error
    logged = json.loads((tmp_path / "s" / "metrics.jsonl").read_text().splitlines()[-1])["metrics"]
    assert logged["test/iou"] > 0.5
    assert logged["test/iou"] == logged["test/iou/house"]
    # "House everywhere" scores the houses' share of the ground.
    assert 0 < logged["test/trivial/iou"] < 0.5
    assert logged["test/objects/count"] == len((tmp_path / "s" / "objects.csv").read_text().splitlines()) - 1 > 0
    assert logged["test/objects/recall"] > 0.5
    assert f"test/iou {logged['test/iou']:.4f}" in out
    pictures = json.loads((tmp_path / "s" / "pictures" / "pictures.json").read_text())
    assert set(pictures.pop("legend")) == {"truth", "found", "missed", "wrong"}
    assert len(pictures) == 2
    for key, facts in pictures.items():
        assert 0 <= facts["score"] <= 1
        assert (facts["metric"], facts["title"]) == ("IoU", "town")
        assert {p.stem for p in (tmp_path / "s" / "pictures" / key).iterdir()} == {"input", "truth", "prediction"}
        with Image.open(tmp_path / "s" / "pictures" / key / "prediction.png") as picture:
            assert picture.size == (256, 256)

    # A model for other chips, and a file that is no such model, are refused.
    test = ["segmentation", "test", "--chips", chips, "--checkpoint", tmp_path / "odd.pt", "--out", tmp_path / "t"]
    for changed, message in (
        ({"classes": ["background", "fire"]}, "was trained on chips with classes"),
        ({"bands": 3}, "its weights do not fit"),
        ({"kind": "detection"}, "holds a detection model"),
    ):
        save_checkpoint(tmp_path / "odd.pt", {**best, "meta": {**best["meta"], **changed}})
        code, _, error = cli(*test)
        assert code == 2
        assert f"odd.pt: {message}" in error
    code, _, error = cli("segmentation", "train", "--chips", tmp_path, *small, "--out", tmp_path / "c")
    assert code == 2
    assert "no folder of chips" in error
