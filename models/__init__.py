"""Pure PyTorch and numpy: SAM, GEM-CLIP, pooling, classification. Imports neither Ray nor `pipelines`."""

from segray.models.deferred import defer

defer("segment_anything")
defer(
    "open_clip",
    unused=(
        "open_clip.coca_model",
        "open_clip.hf_model",
        "open_clip.loss",
        "open_clip.timm_model",
        "open_clip.transform",
        "torchvision.ops.misc",
    ),
)
