"""Names of tensors as their authors published them, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

__all__ = ["to_our_names"]

_BLOCK = {
    "attn.q": "attention.query",
    "attn.kv": "attention.key_value",
    "attn.proj": "attention.out",
    "attn.sr": "attention.shrink",
    "attn.norm": "attention.shrink_norm",
    "mlp.fc1": "feed.enter",
    "mlp.dwconv.dwconv": "feed.mix",
    "mlp.fc2": "feed.leave",
    "norm1": "norm1",
    "norm2": "norm2",
}


def _stage(number: str) -> str:
    return f"encoder.stages.{int(number) - 1}"


# ChangeFormer's encoder is "Tenc_x2", its decoder "TDec_x2"; SegFormer's backbone has the encoder's names without the prefix.
_RULES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"(?:Tenc_x2\.)?patch_embed(\d)\.proj\.(\w+)", lambda m: f"{_stage(m[1])}.embed.{m[2]}"),
    (r"(?:Tenc_x2\.)?patch_embed(\d)\.norm\.(\w+)", lambda m: f"{_stage(m[1])}.embed_norm.{m[2]}"),
    (
        r"(?:Tenc_x2\.)?block(\d)\.(\d+)\.(.+)\.(\w+)",
        lambda m: f"{_stage(m[1])}.blocks.{m[2]}.{_BLOCK.get(m[3], m[3])}.{m[4]}",
    ),
    (r"(?:Tenc_x2\.)?norm(\d)\.(\w+)", lambda m: f"{_stage(m[1])}.norm.{m[2]}"),
    (r"TDec_x2\.linear_c(\d)\.proj\.(\w+)", lambda m: f"decoder.project.{int(m[1]) - 1}.{m[2]}"),
    (r"TDec_x2\.diff_c(\d)\.(.+)", lambda m: f"decoder.differ.{int(m[1]) - 1}.{m[2]}"),
    (r"TDec_x2\.make_pred_c(\d)\.(.+)", lambda m: f"decoder.predict.{int(m[1]) - 1}.{m[2]}"),
    (r"TDec_x2\.linear_fuse\.(.+)", lambda m: f"decoder.fuse.{m[1]}"),
    (r"TDec_x2\.convd([21])x\.conv2d\.(\w+)", lambda m: f"decoder.enlarge.{2 - int(m[1])}.{m[2]}"),
    (
        r"TDec_x2\.dense_([21])x\.0\.conv([12])\.conv2d\.(\w+)",
        lambda m: f"decoder.refine.{2 - int(m[1])}.{'first' if m[2] == '1' else 'second'}.{m[3]}",
    ),
    (r"TDec_x2\.change_probability\.conv2d\.(\w+)", lambda m: f"decoder.answer.{m[1]}"),
)


def to_our_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state with the names of :mod:`shoal_earth.change.changeformer`; names that are not known stay."""
    result = {}
    for name, value in state.items():
        plain = name.removeprefix("module.")
        for pattern, rename in _RULES:
            if found := re.fullmatch(pattern, plain):
                plain = rename(found)
                break
        result[plain] = value
    return result
