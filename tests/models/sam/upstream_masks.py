"""segment_anything's own masks as the measure: the reference model, and when two lists of masks are equal."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from segray.models.masks import Segment, full_mask

Rgb = NDArray[np.uint8]
ROUNDING = 1e-4
"""Of logits whose deviation is 3 to 4; sums in another order differed by up to 1.6e-5."""


def reference_sam(state: dict[str, torch.Tensor]) -> Sam:
    """The reference model: sizes as in the stored weights; what shapes do not tell is written out."""
    grid, width = state["image_encoder.pos_embed"].shape[2:]
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    dim = state["image_encoder.neck.0.weight"].shape[0]
    encoder = ImageEncoderViT(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=width,
        depth=2,
        num_heads=4,
        mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        out_chans=dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=7,
        global_attn_indexes=(1,),
    )
    mlp_dim = state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
    decoder = MaskDecoder(
        transformer_dim=dim,
        transformer=TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=4, mlp_dim=mlp_dim),
        iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )
    prompts = PromptEncoder(dim, (grid, grid), (grid * patch, grid * patch), mask_in_chans=16)
    sam = Sam(encoder, prompts, decoder).eval()
    sam.load_state_dict(state)
    return sam


def logits_of(sam: Sam, image: Rgb, record: dict[str, Any]) -> NDArray[np.float32]:
    """Full-size logits of one of upstream's masks, by its own predictor; infinite outside of its crop."""
    x, y, w, h = record["crop_box"]
    predictor = SamPredictor(sam)
    predictor.set_image(image[y : y + h, x : x + w])
    point = predictor.transform.apply_coords(np.array(record["point_coords"]) - [x, y], (h, w))
    logits, iou, _ = predictor.predict_torch(
        torch.as_tensor(point)[:, None], torch.ones(1, 1, dtype=torch.int), return_logits=True
    )
    full = np.full(image.shape[:2], np.inf, np.float32)
    full[y : y + h, x : x + w] = logits[0, (iou[0] - record["predicted_iou"]).abs().argmin()].numpy()
    return full


def assert_same(
    segments: list[Segment],
    records: list[dict[str, Any]],
    seen: tuple[Sam, Rgb] | None = None,
) -> None:
    """Mask for mask; with the model and the image pixels may differ whose logit is at the cut itself."""
    assert len(segments) == len(records)
    for segment, record in zip(segments, records, strict=True):
        mask = record["segmentation"]
        differs = full_mask(segment, *mask.shape) != mask
        if differs.any():
            assert seen is not None
            assert np.abs(logits_of(*seen, record)[differs] - seen[0].mask_threshold).max() < ROUNDING
        else:
            x, y, w, h = segment.box
            assert [x, y, w - 1, h - 1] == record["bbox"]
        assert segment.mask.shape == segment.box[:1:-1]
        assert abs(segment.area - record["area"]) <= differs.sum()
        assert segment.predicted_iou == pytest.approx(record["predicted_iou"], abs=1e-5)
        # Sums in another order may move one pixel's logit across one of its two thresholds.
        assert segment.stability_score == pytest.approx(record["stability_score"], abs=1 / segment.area)
        assert list(segment.point) == record["point_coords"][0]
        assert list(segment.crop_box) == record["crop_box"]
