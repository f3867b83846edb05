"""SAM ViT-B and CLIP ViT-B/16 at their real size, from files as they are published, all the way."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import segment_anything
import torch

from segray.pipelines.commands import annotate
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import contents
from tests.pipelines.plain_runs import draw_scenes


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, Path]:
    """State dicts with random values: SAM's in float32 as .pth, CLIP's in half precision as .pt."""
    torch.manual_seed(0)
    sam = segment_anything.build_sam_vit_b()
    with torch.no_grad():
        # Untrained, it takes half of its masks for worse than nothing.
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(0.5)
    torch.save(sam.state_dict(), tmp_path / "sam_vit_b.pth")
    clip = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    torch.save({key: value.half() for key, value in clip.state_dict().items()}, tmp_path / "ViT-B-16.pt")
    return tmp_path / "sam_vit_b.pth", tmp_path / "ViT-B-16.pt"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_real_networks_run_through_the_whole_path(tmp_path: Path, weights: tuple[Path, Path]) -> None:
    sam, clip = weights
    images, out = draw_scenes(tmp_path / "images", 1), tmp_path / "labels"
    words = [
        *(f"images={images}", f"out={out}", "classes=cat,dog"),
        *("sam.model=vit_b", f"sam.weights={sam}", "sam.points_per_side=1", "sam.workers=1"),
        *("sam.pred_iou_thresh=0", "sam.stability_score_thresh=0", "sam.stability_score_offset=0"),
        *("clip.model=ViT-B-16-quickgelu", f"clip.weights={clip}", "clip.image_size=224", "clip.workers=1"),
        "label.threshold=-1",
    ]
    annotate.run(load(AnnotateConfig, None, words))
    assert verify(str(out)).problems == []
    ((row, segments),) = contents(out).values()
    assert (row["status"], row["error"], row["width"], row["height"]) == ("ok", None, 64, 96)
    assert row["n_segments"] == len(segments) > 0
    assert all(len(segment["embedding"]) == 512 for segment in segments)
    record = LabelStore(str(out)).provenance
    assert record["sam"]["model"] == "vit_b"
    assert record["clip"]["model"] == "ViT-B-16-quickgelu"
    assert record["classes"] == ["background", "cat", "dog"]
