"""SAM 3 on tiny random weights: its scores by the formula, one prompt at a time; what runs how often."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

from segray.models.annotators import concept_map, loading
from segray.models.annotators.concept_map import Concept, ConceptMap
from segray.models.annotators.loading import check_labeller, open_labeller
from segray.models.annotators.registry import LABEL_MODELS
from segray.models.annotators.sam3 import ARCH, Sam3, Sam3Labeller
from segray.models.annotators.transformers_weights import square
from segray.models.class_scores import classify_scores
from segray.models.label_map import render_label_map
from segray.models.masks import Segment, full_mask
from segray.models.sam.geometry import Rgb
from segray.models.weights import UnavailableError, WeightsError
from segray.pipelines.scenes.picture_book import draw_scene
from tests.models.annotators.tiny import SAM3, tiny_network, write_weights

NAMES = ((), ("cat",), ("dog", "a small puppy"), ("Traffic Light",))
OPTIONS: dict[str, Any] = {
    "precision": "fp32",
    "threshold": 0.3,
    "instance_score": 0.14,
    "max_instances": 6,
    "min_presence": 0.0,
    "prompts_per_batch": 3,
}


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_network("sam3", seed=3)


def scenes() -> list[Rgb]:
    return [np.ascontiguousarray(draw_scene(3, index, 96).image[: 80 - 24 * index]) for index in range(3)]


def labeller(network: Any, **options: Any) -> Sam3Labeller:
    return Sam3(network).labeller("cpu", NAMES, {**OPTIONS, **options})


@pytest.fixture(scope="module")
def references(network: Any) -> list[NDArray[np.float32]]:
    return [reference(network, image).numpy() for image in scenes()]


@torch.inference_mode()
def reference(network: Any, image: Rgb) -> Tensor:
    """S_c(x) as float32 [C, H, W] by ConceptBank's rule, with one call of the model per name."""
    side, tokenizer = network.config.vision_config.image_size, SimpleTokenizer(context_length=32)
    pixels = square(image, (side, side), side, (0.5,) * 3, (0.5,) * 3)
    scores = torch.zeros(len(NAMES), *image.shape[:2])
    for class_id, group in enumerate(NAMES):
        for name in group:
            ids = tokenizer([name])
            output = network(pixel_values=pixels, input_ids=ids, attention_mask=(ids != 0).long())
            presence = output.presence_logits[0, 0].sigmoid()
            logits, best = output.pred_logits[0].topk(OPTIONS["max_instances"])
            maps = [presence * enlarged(output.semantic_seg[0, 0], image).sigmoid()]
            for score, query in zip(logits.sigmoid() * presence, best, strict=True):
                if score > OPTIONS["instance_score"]:
                    maps.append(score * enlarged(output.pred_masks[0, query], image).sigmoid())
            scores[class_id] = torch.stack([scores[class_id], *maps]).amax(0)
    return scores


def enlarged(logits: Tensor, image: Rgb) -> Tensor:
    return F.interpolate(logits[None, None], image.shape[:2], mode="bilinear", align_corners=False)[0, 0]


def painted(segments: list[Segment], scores: NDArray[np.float32], image: Rgb) -> NDArray[Any]:
    classes = classify_scores(scores, [1, 2, 3], OPTIONS["threshold"])
    return render_label_map(segments, classes, *image.shape[:2])[0]


@pytest.mark.parametrize("prompts", [1, 3, 50])
def test_chunks_of_several_images_are_the_model_prompt_by_prompt(
    network: Any, references: list[NDArray[np.float32]], prompts: int
) -> None:
    images = scenes()
    found = labeller(network, prompts_per_batch=prompts).label(images)
    for image, wanted, (segments, scores) in zip(images, references, found, strict=True):
        best, second = np.sort(wanted, 0)[::-1][:2]
        # Where two classes, or a class and the threshold, are the same number, rounding decides.
        clear = (best - second > 2e-5) & (abs(best - OPTIONS["threshold"]) > 2e-5)
        truth = np.where(best >= OPTIONS["threshold"], wanted.argmax(0), 0)
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(painted(segments, scores, image)[clear], truth[clear])
        for segment, of_classes in zip(segments, scores, strict=True):
            mask = full_mask(segment, *image.shape[:2])
            np.testing.assert_allclose(of_classes, wanted[:, mask].mean(1), atol=1e-5)
    assert sum(len(segments) for segments, _ in found) > 3


def test_the_segments_do_not_overlap_and_refer_to_the_original(network: Any) -> None:
    image = scenes()[1]
    (segments, _), *_ = labeller(network).label([image], [(200, 130)])
    total = sum((full_mask(segment, 200, 130).astype(int) for segment in segments), np.zeros((200, 130), int))
    assert total.max() == 1


def test_the_bands_of_rows_change_nothing(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole, scores), *_ = labeller(network).label(scenes()[1:2])
    monkeypatch.setattr(concept_map, "_VALUES_AT_ONCE", 5_000)
    (cut, others), *_ = labeller(network).label(scenes()[1:2])
    assert [(a.box, a.area) for a in whole] == [(b.box, b.area) for b in cut]
    np.testing.assert_allclose(scores, others, atol=1e-6)


def test_masks_of_names_that_are_not_there_are_not_computed(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    forward = network.mask_decoder.forward

    def counted(**inputs: Any) -> Any:
        decoded.append(len(inputs["decoder_queries"]))
        return forward(**inputs)

    monkeypatch.setattr(network.mask_decoder, "forward", counted)
    every = labeller(network, threshold=0.45, min_presence=0.0).label(scenes())
    assert sum(decoded) == 12
    decoded.clear()
    # Never above the threshold, which would change labels.
    some = labeller(network, threshold=0.45, min_presence=0.9).label(scenes())
    assert 0 < sum(decoded) < 12
    for image, (first, scores), (second, others) in zip(scenes(), every, some, strict=True):
        np.testing.assert_array_equal(painted(first, scores, image), painted(second, others, image))


def test_names_are_read_once_and_each_image_once(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for part in ("text_encoder", "vision_encoder"):
        module = getattr(network, part)
        forward = module.forward

        def counted(*inputs: Any, part: str = part, forward: Any = forward, **more: Any) -> Any:
            calls.append(part)
            return forward(*inputs, **more)

        monkeypatch.setattr(module, "forward", counted)
    found = labeller(network, prompts_per_batch=2)
    found.label(scenes()[:2])
    found.label(scenes()[2:])
    assert calls == ["text_encoder", "vision_encoder", "vision_encoder"]


def test_an_instance_that_was_found_twice_is_one_segment() -> None:
    left, right = torch.full((2, 8, 8), -9.0)
    left[:, :5], right[:, 4:] = 9.0, 9.0
    masks = torch.stack([left, left + 0.5, right])
    one = Concept(2, torch.tensor(0.9), torch.tensor([0.8, 0.7, 0.6]), masks, torch.full((8, 8), -9.0))
    segments, scores = ConceptMap([one], (8, 8), 0.5).segments(4)
    assert [segment.box for segment in segments] == [(0, 0, 5, 8), (5, 0, 3, 8)]
    np.testing.assert_allclose(scores[:, 2], [0.8, 0.6], atol=1e-3)
    assert scores[:, [0, 1, 3]].max() == 0
    np.testing.assert_allclose([s.predicted_iou for s in segments], [0.8, 0.6], atol=1e-6)


def test_what_the_semantic_map_adds_is_a_segment_of_its_own() -> None:
    mask = torch.full((1, 8, 8), -9.0)
    mask[:, :, :2] = 9.0
    one = Concept(1, torch.tensor(0.9), torch.tensor([0.8]), mask, torch.full((8, 8), 9.0))
    segments, scores = ConceptMap([one], (8, 8), 0.5).segments(2)
    assert [(segment.box, segment.area) for segment in segments] == [((0, 0, 2, 8), 16), ((2, 0, 6, 8), 48)]
    np.testing.assert_allclose(scores[:, 1], 0.9, atol=1e-3)


def test_nothing_above_the_threshold_is_no_segment(network: Any) -> None:
    for segments, scores in labeller(network, threshold=0.99).label(scenes()):
        assert segments == []
        assert scores.shape == (0, 4)


def test_the_official_file_holds_the_tracker_too(tmp_path: Path) -> None:
    path = write_weights(tmp_path, "sam3")
    state = {f"detector_model.{key}": value for key, value in load_file(path).items()}
    state["tracker_model.memory.weight"] = torch.zeros(3)
    save_file(state, path, {"segray": json.dumps({"arch": SAM3})})
    model, checkpoint = open_labeller("sam3", str(path))
    assert (model.size, check_labeller("sam3", str(path))) == (112, (112, checkpoint))
    wanted = Sam3(tiny_network("sam3")).labeller("cpu", NAMES, OPTIONS).label(scenes())
    found = model.labeller("cpu", NAMES, OPTIONS).label(scenes())
    for (_, scores), (_, others) in zip(wanted, found, strict=True):
        np.testing.assert_allclose(scores, others, atol=1e-6)
    del state["detector_model.mask_decoder.semantic_projection.weight"]
    save_file(state, path, {"segray": json.dumps({"arch": SAM3})})
    with pytest.raises(WeightsError, match=r"does not fit the model sam3: missing keys: mask_decoder\.sem"):
        open_labeller("sam3", str(path))


def test_an_input_of_any_size_in_a_file_is_refused() -> None:
    network = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=65_536)))
    with pytest.raises(ValueError, match=r"^its input has 65536 pixels a side \(allowed: 1 to 4096\)$"):
        Sam3(network)  # type: ignore[arg-type]


def test_weights_that_cannot_be_had_say_where_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(spec: str, *, sha256: str | None = None) -> None:
        raise UnavailableError(f"cannot get {spec}: 401 Client Error", "x")

    monkeypatch.setattr(loading, "resolve", refused)
    with pytest.raises(
        WeightsError,
        match=r"^no weights for annotator=sam3: cannot get hf-hub:facebook/sam3: 401 Client Error; they are "
        r"given on request: ask at https://huggingface\.co/facebook/sam3, then run `hf auth login` or set "
        r"HF_TOKEN, or give a file, labeller\.weights=FILE \(see docs/real-models\.md\)$",
    ):
        check_labeller("sam3")
    with pytest.raises(
        WeightsError, match=r"cannot get hf-hub:me/mine: 401 Client Error; go online once, or give"
    ):
        open_labeller("sam3", "hf-hub:me/mine")


def test_the_size_is_that_of_the_model() -> None:
    from transformers import Sam3Config, Sam3Model

    assert Sam3Config(**ARCH["sam3"]).to_dict() == Sam3Config().to_dict()
    with torch.device("meta"):
        found = sum(p.numel() for p in Sam3Model(Sam3Config()).parameters()) / 1e6
    assert found == pytest.approx(LABEL_MODELS["sam3"].parameters, abs=0.1)
