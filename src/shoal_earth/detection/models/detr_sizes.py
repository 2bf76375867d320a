"""The configurations of transformers' detectors: as published, and tiny."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["CONFIGS", "Sizes", "configuration"]


@dataclass(frozen=True)
class Sizes:
    """One architecture's configurations.

    Args:
        config: class of transformers.
        backbone: class of its backbone's configuration, None for timm's.
        published: what differs from the library's defaults, which are the published sizes mostly.
        published_backbone: of the backbone.
        tiny: for a CPU.
        tiny_backbone: of its backbone.
        tiny_backbone_class: of its backbone.
        multiple: sides of images are padded to multiples of this.
        tiny_multiple: the same of the tiny size.
    """

    config: str
    backbone: str
    published: dict[str, Any]
    published_backbone: dict[str, Any]
    tiny: dict[str, Any]
    tiny_backbone: dict[str, Any]
    tiny_backbone_class: str | None = None
    multiple: int = 32
    tiny_multiple: int = 32
    extra: dict[str, Any] = field(default_factory=dict)


_R50 = {"backbone": "resnet50", "use_pretrained_backbone": False, "features_only": True}
_TINY_RESNET = {
    "embedding_size": 24,
    "hidden_sizes": [24, 48, 96, 128],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
_SMALL = {
    "d_model": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "dropout": 0.0,
}
_HYBRID = {
    "d_model": 64,
    "encoder_hidden_dim": 64,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "decoder_in_channels": [64, 64, 64],
    "encoder_in_channels": [48, 96, 128],
    "decoder_layers": 2,
    "num_queries": 40,
    "num_denoising": 30,
    "hidden_expansion": 0.5,
    "tie_word_embeddings": False,
}

CONFIGS: dict[str, Sizes] = {
    "detr": Sizes(
        "DetrConfig",
        "TimmBackboneConfig",
        {"auxiliary_loss": True},
        {**_R50, "out_indices": [1, 2, 3, 4]},
        {**_SMALL, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 64, "auxiliary_loss": True},
        {**_TINY_RESNET, "hidden_sizes": [24, 48, 96], "depths": [1, 1, 1], "out_features": ["stage3"]},
        "ResNetConfig",
    ),
    "deformable-detr": Sizes(
        "DeformableDetrConfig",
        "TimmBackboneConfig",
        {"auxiliary_loss": True, "two_stage": True, "with_box_refine": True, "tie_word_embeddings": False},
        {**_R50, "out_indices": [2, 3, 4]},
        {
            **_SMALL,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_feature_levels": 3,
            "two_stage_num_proposals": 40,
            "num_queries": 40,
            "auxiliary_loss": True,
            "two_stage": True,
            "with_box_refine": True,
            "tie_word_embeddings": False,
        },
        {**_TINY_RESNET, "out_features": ["stage2", "stage3", "stage4"]},
        "ResNetConfig",
    ),
    "rtdetrv2": Sizes(
        "RTDetrV2Config",
        "RTDetrResNetConfig",
        {"tie_word_embeddings": False},
        {"out_features": ["stage2", "stage3", "stage4"]},
        _HYBRID,
        {**_TINY_RESNET, "out_features": ["stage2", "stage3", "stage4"]},
    ),
    "dfine": Sizes(
        "DFineConfig",
        "HGNetV2Config",
        {"tie_word_embeddings": False},
        {"out_features": ["stage2", "stage3", "stage4"]},
        {**_HYBRID, "depth_mult": 0.34, "decoder_n_points": [3, 4, 3]},
        {
            "stem_channels": [3, 8, 16],
            "stage_in_channels": [16, 24, 48, 96],
            "stage_mid_channels": [16, 16, 24, 32],
            "stage_out_channels": [24, 48, 96, 128],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [2, 2, 2, 2],
            "stage_kernel_size": [3, 3, 3, 3],
            "stage_light_block": [False, False, False, False],
            "hidden_sizes": [24, 48, 96, 128],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage2", "stage3", "stage4"],
        },
    ),
    "rfdetr": Sizes(
        "RfDetrConfig",
        "RfDetrDinov2Config",
        {},
        {
            "hidden_size": 384,
            "num_attention_heads": 6,
            "image_size": 518,
            "out_features": ["stage2", "stage5", "stage8", "stage11"],
        },
        {
            "d_model": 64,
            "decoder_ffn_dim": 128,
            "decoder_layers": 2,
            "decoder_self_attention_heads": 4,
            "decoder_cross_attention_heads": 4,
            "num_queries": 30,
            "group_detr": 3,
            "dropout": 0.0,
        },
        {
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "patch_size": 8,
            "num_windows": 2,
            "out_features": ["stage2", "stage4"],
        },
        multiple=56,
        tiny_multiple=16,
    ),
}


def configuration(name: str, classes: int, size: str, image_size: int) -> Any:
    """The configuration of a detector: see :data:`CONFIGS`."""
    import transformers

    sizes = CONFIGS[name]
    published = size == "published"
    backbone_class = sizes.backbone if published else sizes.tiny_backbone_class or sizes.backbone
    backbone = dict(sizes.published_backbone if published else sizes.tiny_backbone)
    if name == "rfdetr" and not published:
        backbone["image_size"] = image_size
    given = dict(sizes.published if published else sizes.tiny)
    return getattr(transformers, sizes.config)(
        backbone_config=getattr(transformers, backbone_class)(**backbone), num_labels=classes, **given
    )
