"""Which CLIP image towers have patch tokens in the text space, and so dense features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TIMM = "a timm tower, whose patch tokens are not in the text space"
_RESNET = "a ResNet, which has no patch tokens"
_POOLED = "attentional pooling instead of a class token"
_SUPPORTED = (
    "supported are open_clip's own vision transformers with a class token and a linear projection, "
    "such as ViT-B-32, ViT-B-16, ViT-L-14, ViT-H-14 and their -quickgelu variants"
)


def check_tower(visual: object) -> None:
    """Check `model.visual` of an open_clip model.

    Raises:
        ValueError: with the reason and what is supported, where patch tokens are not in the text space.
    """
    reason = _tower_reason(visual)
    if reason:
        raise ValueError(f"this CLIP image tower has no dense features: {reason}; {_SUPPORTED}")


def check_config(name: str, config: Mapping[str, Any]) -> None:
    """Check open_clip's configuration of the model `name`, before anything is built or downloaded.

    Raises:
        ValueError: as `check_tower`.
    """
    reason = _config_reason(config)
    if reason:
        raise ValueError(f"CLIP model {name} has no dense features: {reason}; {_SUPPORTED}")


def _tower_reason(visual: object) -> str | None:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if not isinstance(visual, VisionTransformer):
        kind = type(visual).__name__
        known = {"TimmModel": _TIMM, "ModifiedResNet": _RESNET}
        return known.get(kind, f"a {kind}, not an open_clip VisionTransformer")
    if getattr(visual, "attn_pool", None) is not None:
        return _POOLED
    if getattr(visual, "proj", None) is None:
        return "no linear projection into the text space"
    if getattr(visual, "class_embedding", None) is None:
        return "no class token"
    if not visual.transformer.batch_first:
        return "a sequence-first transformer"
    if not all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks):
        return "custom attention blocks"
    return None


def _config_reason(config: Mapping[str, Any]) -> str | None:
    vision = config["vision_cfg"]
    if "timm_model_name" in vision:
        return _TIMM
    if isinstance(vision.get("layers"), list):
        return _RESNET
    if vision.get("attentional_pool"):
        return _POOLED
    if "multimodal_cfg" in config:
        return "a CoCa model"
    return None
