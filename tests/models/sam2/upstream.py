"""A tiny SAM 2.1 of the package `sam2`, Meta's own code, and the same weights in transformers' model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segray.models.sam.geometry import Rgb
from segray.models.sam2.original import transformers_state
from tests.models.annotators.tiny import SAM2

SITE = Path(__file__).parents[3] / "build" / "sam2"
"""Where `make build/sam2` puts the package."""
SIDE = 128
CONFIG = {
    **SAM2,
    "prompt_encoder_config": {**SAM2["prompt_encoder_config"], "mask_input_channels": 16},
    # Written into the package's code.
    "mask_decoder_config": {"hidden_size": 32},
}


def package() -> Any:
    """The module of the automatic generator; skips the test where it is not installed."""
    if SITE.is_dir() and str(SITE) not in sys.path:
        # In front: moto brings an antlr4 that is newer than what this package reads.
        sys.path.insert(0, str(SITE))
    return pytest.importorskip("sam2.automatic_mask_generator", reason="see CONTRIBUTING.md, SAM 2 parity")


def upstream_model(seed: int = 0) -> Any:
    """A random `SAM2Base` whose outputs vary over the image and from prompt to prompt."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam2_base import SAM2Base

    torch.manual_seed(seed)
    trunk = Hiera(
        embed_dim=16,
        num_heads=1,
        stages=(1, 2, 2, 2),
        global_att_blocks=(4,),
        window_spec=(8, 4, 4, 2),
        window_pos_embed_bkg_spatial_size=(7, 7),
    )
    neck = FpnNeck(
        PositionEmbeddingSine(32),
        32,
        [128, 64, 32, 16],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    model = SAM2Base(
        ImageEncoder(trunk, neck, scalp=1),
        torch.nn.Identity(),
        torch.nn.Identity(),
        image_size=SIDE,
        use_high_res_features_in_sam=True,
        directly_add_no_mem_embed=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    return model.eval()


def upstream_generator(model: Any, **options: Any) -> Any:
    """Meta's `SAM2AutomaticMaskGenerator`, which knows the sizes of the released models alone."""
    generator = package().SAM2AutomaticMaskGenerator(model, **options)
    generator.predictor._bb_feat_sizes = [(SIDE // n, SIDE // n) for n in (4, 8, 16)]
    return generator


def logits_of(generator: Any, image: Rgb, record: dict[str, Any]) -> NDArray[np.float32]:
    """Full-size logits of one of upstream's masks, by its own predictor; infinite outside of its crop."""
    x, y, w, h = map(int, record["crop_box"])
    predictor = generator.predictor
    predictor.set_image(image[y : y + h, x : x + w])
    point = np.array(record["point_coords"]) - [x, y]
    logits, iou, _ = predictor.predict(point, np.ones(1, np.int32), return_logits=True)
    full = np.full(image.shape[:2], np.inf, np.float32)
    full[y : y + h, x : x + w] = logits[np.abs(iou - record["predicted_iou"]).argmin()]
    return full


def same_network(model: Any) -> Any:
    """transformers' model with the weights of upstream's."""
    from transformers import Sam2Config, Sam2Model

    network = Sam2Model(Sam2Config(**CONFIG))
    state = transformers_state(model.state_dict())
    missing, _ = network.load_state_dict(state, strict=False)
    assert not missing
    return network.eval()
