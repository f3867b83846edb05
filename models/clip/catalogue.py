"""What open_clip knows about its models and their published weights."""

from __future__ import annotations

try:
    # Not from the package itself, which imports torchvision, timm and code for training (models/deferred.py).
    from open_clip.factory import get_model_config, get_tokenizer, list_models
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
except ImportError:  # a version that has them elsewhere
    from open_clip import (
        get_model_config,
        get_pretrained_cfg,
        get_tokenizer,
        list_models,
        list_pretrained_tags_by_model,
    )

__all__ = [
    "get_model_config",
    "get_pretrained_cfg",
    "get_tokenizer",
    "list_models",
    "list_pretrained_tags_by_model",
]
