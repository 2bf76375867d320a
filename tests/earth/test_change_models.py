"""Models of change: the published sizes, several scales, pretrained starts, and all of the way on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from shoal.errors import UsageError
from shoal_earth.change.changeformer import ChangeFormer
from shoal_earth.change.models import build_change_model, default_encoder
from shoal_earth.rasters.statistics import to_input
from shoal_earth.segmentation.losses import build_loss
from shoal_earth.segmentation.models import build_model

from .pairs import write_pairs

SMALL = [
    ("changeformer-tiny", None, {}),
    ("fc-siam-conc", None, {}),
    ("fc-siam-diff", None, {}),
    ("bit", "tu-resnet10t", {}),
    ("siam-unet", "tu-test_resnet", {"depth": 4, "width": 32}),
]


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


# ChangeFormer with a decoder of 256: 41.0 M, in the comparison of its repository and in papers that compare with it. FC-Siam and
# BIT: table 4 of arXiv 2103.00208 (1.55 M, 1.35 M, 3.55 M).
@pytest.mark.parametrize(
    ("name", "millions"), [("changeformer", 41.0), ("fc-siam-conc", 1.55), ("fc-siam-diff", 1.35), ("bit", 3.55)]
)
def test_models_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    model = build_change_model(name, None, bands=3, classes=2)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.02)
    if name == "changeformer":
        assert count == pytest.approx(41.026674)


@pytest.mark.parametrize(("name", "encoder", "options"), SMALL)
def test_models_answer_at_the_images_size_and_every_parameter_learns(
    name: str, encoder: str | None, options: dict
) -> None:
    model = build_model(name, encoder, bands=2, classes=3, dates=2, **options)
    labels = torch.randint(0, 3, (2, 64, 64))
    build_loss("ce")(model(torch.randn(2, 2, 64, 64)), labels).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    model.eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 2, 64, 96)).shape == (1, 3, 64, 96)
        if name == "siam-unet":  # it sees nothing but the difference of what one encoder makes of each date
            first, second = torch.randn(2, 1, 1, 64, 64)
            one, other = (model(torch.cat(pair, 1)) for pair in ((first, second), (second, first)))
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_changeformer_is_supervised_at_five_scales_of_any_size() -> None:
    model = build_change_model("changeformer-tiny", None, bands=3, classes=2)
    assert [tuple(a.shape[-2:]) for a in model(torch.zeros(2, 6, 64, 96))] == [
        (2, 3),
        (4, 6),
        (8, 12),
        (16, 24),
        (64, 96),
    ]
    assert [tuple(a.shape[-2:]) for a in model(torch.zeros(2, 6, 70, 50))][-2:] == [(18, 13), (70, 50)]
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 6, 70, 50)).shape == (1, 2, 70, 50)


def test_a_trained_model_or_published_weights_are_a_start(tmp_path: Path) -> None:
    source = build_change_model("changeformer-tiny", None, bands=3, classes=2)
    names = {v: k for k, v in published_names(source).items()}
    torch.save({"model_G_state_dict": {}}, tmp_path / "odd.pt")
    torch.save({names.get(k, k): v for k, v in source.state_dict().items()}, tmp_path / "published.pt")
    torch.save({"format": 1, "model": source.state_dict()}, tmp_path / "best.pt")
    for place in (tmp_path / "published.pt", tmp_path / "best.pt", tmp_path):
        filled = build_change_model("changeformer-tiny", None, bands=3, classes=2, weights=str(place))
        for (key, one), other in zip(source.state_dict().items(), filled.state_dict().values(), strict=True):
            assert torch.equal(one, other), key
    # One band instead of three: the first layer answers as before to a grey image.
    grey = build_change_model("changeformer-tiny", None, bands=1, classes=2, weights=str(tmp_path / "best.pt")).eval()
    image = torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        wanted = source.eval()(image.repeat_interleave(3, 1))
        torch.testing.assert_close(grey(image), wanted, rtol=1e-3, atol=1e-4)
    # Of another decoder, the encoder is taken.
    wide = build_change_model(
        "changeformer-tiny", None, bands=3, classes=2, width=16, weights=str(tmp_path / "best.pt")
    )
    assert isinstance(wide, ChangeFormer)
    assert torch.equal(wide.encoder.stages[0].embed.weight, source.encoder.stages[0].embed.weight)
    for weights, message in (
        (tmp_path / "none.pt", "none.pt: there is no such file of weights"),
        (tmp_path / "odd.pt", "odd.pt: "),
        ("imagenet", r"(?s)no weights \"imagenet\" for changeformer.*--weights FILE.pt"),
    ):
        with pytest.raises(UsageError, match=message):
            build_change_model("changeformer", None, bands=3, classes=2, weights=str(weights))
    with pytest.raises(UsageError, match=r"are not weights of fc-siam-diff: \d+ of its encoder's"):
        build_change_model("fc-siam-diff", None, bands=3, classes=2, weights=str(tmp_path / "best.pt"))


def test_a_siamese_network_starts_from_the_weights_of_its_encoder(tmp_path: Path) -> None:
    source = build_model("unet", "tu-test_resnet", bands=3, classes=2)
    torch.save(source.encoder.state_dict(), tmp_path / "encoder.pth")
    size = {"bands": 6, "classes": 2, "dates": 2, "weights": str(tmp_path / "encoder.pth")}
    filled = build_model("siam-unet", "tu-test_resnet", **size)
    for one, other in zip(source.encoder.parameters(), filled.network.encoder.parameters(), strict=True):
        assert torch.equal(one, other)
    # As `segmentation weights` writes them, for a model that is built of timm's alone.
    from shoal_earth.segmentation.weights import choose_weights, save_encoder

    save_encoder("tu-resnet18", tmp_path / "folder", source="random")
    place = choose_weights(default_encoder("bit"), pretrained="true", folder=tmp_path / "folder")
    bit = build_model("bit", None, bands=6, classes=2, dates=2, weights=place)
    held = load_file(tmp_path / "folder" / "tu-resnet18.safetensors")
    assert torch.equal(bit.encoder.state_dict()["layer1.0.conv1.weight"], held["model.layer1.0.conv1.weight"])
    # One network that sees both dates as one image: the first layer is averaged over the bands.
    both = build_model("unet", "tu-resnet18", bands=6, classes=2, weights=place)
    first = both.encoder.state_dict()["model.conv1.weight"]
    torch.testing.assert_close(first[:, 4], held["model.conv1.weight"].sum(1) / 6)
    with pytest.raises(UsageError, match=r"are not weights of the encoder tu-resnet10t: \d+ tensors do not fit"):
        build_model("unet", "tu-resnet10t", bands=3, classes=2, weights=place)
    save_encoder("resnet34", tmp_path / "folder", source="random")
    with pytest.raises(UsageError, match="are not weights of the encoder resnet18"):
        build_model("unet", "resnet18", bands=3, classes=2, weights=str(tmp_path / "folder" / "resnet34.safetensors"))
    with pytest.raises(UsageError, match="are not weights of siam-unet"):
        build_model("siam-unet", "tu-resnet10t", **size)


def published_names(model: torch.nn.Module) -> dict[str, str]:
    """The names under which ChangeFormer's authors published it -> ours, written out rather than derived."""
    names = {}
    for n in range(1, 5):
        stage = f"encoder.stages.{n - 1}"
        for leaf in ("weight", "bias"):
            names[f"Tenc_x2.patch_embed{n}.proj.{leaf}"] = f"{stage}.embed.{leaf}"
            names[f"Tenc_x2.patch_embed{n}.norm.{leaf}"] = f"{stage}.embed_norm.{leaf}"
            names[f"Tenc_x2.norm{n}.{leaf}"] = f"{stage}.norm.{leaf}"
            names[f"TDec_x2.linear_c{n}.proj.{leaf}"] = f"decoder.project.{n - 1}.{leaf}"
            names[f"TDec_x2.diff_c{n}.3.{leaf}"] = f"decoder.differ.{n - 1}.3.{leaf}"
            for theirs, ours in (
                ("attn.q", "attention.query"),
                ("attn.kv", "attention.key_value"),
                ("attn.proj", "attention.out"),
                ("attn.sr", "attention.shrink"),
                ("attn.norm", "attention.shrink_norm"),
                ("mlp.fc1", "feed.enter"),
                ("mlp.dwconv.dwconv", "feed.mix"),
                ("mlp.fc2", "feed.leave"),
            ):
                names[f"Tenc_x2.block{n}.0.{theirs}.{leaf}"] = f"{stage}.blocks.0.{ours}.{leaf}"
    for leaf in ("weight", "bias"):
        names[f"TDec_x2.linear_fuse.0.{leaf}"] = f"decoder.fuse.0.{leaf}"
        names[f"TDec_x2.change_probability.conv2d.{leaf}"] = f"decoder.answer.{leaf}"
        for theirs, ours in (("2x", 0), ("1x", 1)):
            names[f"TDec_x2.convd{theirs}.conv2d.{leaf}"] = f"decoder.enlarge.{ours}.{leaf}"
            names[f"TDec_x2.dense_{theirs}.0.conv1.conv2d.{leaf}"] = f"decoder.refine.{ours}.first.{leaf}"
            names[f"TDec_x2.dense_{theirs}.0.conv2.conv2d.{leaf}"] = f"decoder.refine.{ours}.second.{leaf}"
    assert set(names.values()) - {
        f"encoder.stages.3.blocks.0.attention.shrink{x}" for x in ("_norm.weight", "_norm.bias", ".weight", ".bias")
    } <= set(model.state_dict())
    return names


def test_models_that_do_not_exist_or_do_not_fit_say_so() -> None:
    for name, options, message in (
        ("changeformr", {}, r"(?s)there is no architecture \"changeformr\".*changeformer"),
        ("changeformer", {"dates": 1}, "compares two dates, but the chips show 1"),
        ("changeformer", {"encoder": "resnet18"}, "has no choice of encoder"),
        ("siam-unett", {}, 'there is no architecture "unett"'),
        ("bit", {"encoder": "resnet1999"}, "bit with encoder resnet1999 cannot be built"),
    ):
        with pytest.raises(UsageError, match=message):
            build_model(name, **{"encoder": None, "bands": 6, "classes": 2, "dates": 2, **options})


def test_from_pairs_to_scores_and_pictures_on_the_command_line(chips: Path, tmp_path: Path, cli) -> None:
    start = ["change", "train", "--chips", chips, "--model", "changeformer-tiny", "--batch-size", 4, "--device", "cpu"]
    how = ["--lr", 4e-3, "--epochs", 25, "--loss", "ce+miou", "--augment", "turns", "--evaluate-every", 5]
    code, _, error = cli(*start, *how, "--out", tmp_path / "a")
    assert code == 0, error
    for kind in ("best", "last"):
        checkpoint, out = tmp_path / "a" / f"{kind}.pt", tmp_path / kind
        code, _, error = cli(
            "change", "test", "--chips", chips, "--checkpoint", checkpoint, "--out", out, "--pictures", 2
        )
        assert code == 0, error
    logged = json.loads((tmp_path / "best" / "metrics.jsonl").read_text().splitlines()[-1])["metrics"]
    assert logged["test/iou"] > logged["test/trivial/iou"] + 0.2
    assert logged["test/kappa"] > 0.3
    assert logged["test/objects/count/0-1ha"] > 0
    sample = next(path for path in (tmp_path / "best" / "pictures").iterdir() if path.is_dir())
    assert {p.stem for p in sample.iterdir()} == {"before", "after", "truth", "prediction"}
    panels = {p.stem: np.asarray(Image.open(p)) for p in sample.iterdir()}
    assert not np.array_equal(panels["before"], panels["after"])


def test_a_chip_is_stretched_by_its_own_percentiles() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(500, 100, (2, 40, 40)).astype(np.int16)
    values[1] *= 3
    got = to_input(values, "chip", [])
    low, high = np.percentile(values[1], [1, 99])
    np.testing.assert_allclose(got[1], np.clip((values[1] - low) / (high - low), 0, 1) * 2 - 1, atol=1e-5)
    assert (got.min(), got.max()) == (-1, 1)
    valid = np.ones((40, 40), bool)
    valid[:, 20:] = False
    half = to_input(values, "chip", [], valid)
    assert (half[:, ~valid] == 0).all()
    np.testing.assert_array_equal(half[:, valid], to_input(values[:, :, :20], "chip", []).reshape(2, -1))
