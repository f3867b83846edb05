"""SAM 3 (Carion et al., 2025) as a labeller: it finds what class names say, in transformers' model.

The rule is that of ConceptBank (arXiv 2602.06333): for each name both heads, instances and semantic map,
times the probability that the name is present; a class takes the maximum over its names, a pixel the best
class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segray.models.annotators.concept_map import Concept, ConceptMap
from segray.models.annotators.protocols import LabelModel
from segray.models.annotators.transformers_weights import Blueprint, PretrainedModel, square
from segray.models.architectures import check_side
from segray.models.masks import Segment
from segray.models.precision import DTYPES
from segray.models.sam.geometry import Rgb, Size

# Other numbers are transformers' defaults; these texts are all that the architecture of a file may have.
ARCH: dict[str, dict[str, Any]] = {
    "sam3": {
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": {"model_type": "sam3_vit_model"},
        },
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "max_position_embeddings": 32,
            "hidden_act": "gelu",
        },
    }
}
_MEAN = _STD = (0.5, 0.5, 0.5)
_NAMES_AT_ONCE = 256
_PROMPTS_PER_BATCH = {"cpu": 4, "cuda": 16}


class Sam3(PretrainedModel, LabelModel):
    """A SAM 3 of transformers. The tensors that only videos need are not loaded.

    Args:
        network: a `Sam3Model`.
    """

    options: ClassVar[frozenset[str]] = frozenset(
        {"instance_score", "max_instances", "min_presence", "prompts_per_batch"}
    )

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        config: Any = network.config
        self.size = check_side(config.vision_config.image_size)

    @staticmethod
    def blueprint(name: str) -> Blueprint:
        """See `PretrainedModel`."""
        from transformers import Sam3Config, Sam3Model

        return Blueprint(Sam3Model, Sam3Config, ARCH[name])

    def labeller(
        self, device: str, names: Sequence[Sequence[str]], options: Mapping[str, Any]
    ) -> Sam3Labeller:
        """Segments of what the names say."""
        return Sam3Labeller(self._network.to(device), self.size, names, options)


@dataclass(frozen=True)
class _Features:
    """What the prompts of a batch of images share.

    Attributes:
        maps: [B, D, h, w] each, from fine to coarse.
        positions: [1, D, h, w], of the coarsest.
    """

    maps: tuple[Tensor, ...]
    positions: Tensor


class Sam3Labeller:
    """Segments of classes: image features once per image, names in chunks.

    Args:
        network: in evaluation mode, on its device.
        side: of its square input in pixels.
        names: of each class id.
        options: see `Sam3.options`; `precision` and `threshold`.
    """

    def __init__(
        self, network: nn.Module, side: int, names: Sequence[Sequence[str]], options: Mapping[str, Any]
    ) -> None:
        self._network: Any = network
        self._side, self._options, self._n_classes = side, options, len(names)
        self._dtype = DTYPES[options["precision"]]
        self._device = next(network.parameters()).device
        self._class_of = [class_id for class_id, group in enumerate(names) for _ in group]
        self._text, self._words = self._embed([name for group in names for name in group])

    @torch.inference_mode()
    def label(
        self, images: Sequence[Rgb], sizes: Sequence[Size] | None = None
    ) -> list[tuple[list[Segment], NDArray[np.float32]]]:
        """See `Labeller`."""
        whole = [image.shape[:2] for image in images] if sizes is None else sizes
        found: list[list[Concept]] = [[] for _ in images]
        for image, concept in self._concepts(images):
            found[image].append(concept)
        threshold = self._options["threshold"]
        maps = (ConceptMap(group, size, threshold) for group, size in zip(found, whole, strict=True))
        return [one.segments(self._n_classes) for one in maps]

    def _concepts(self, images: Sequence[Rgb]) -> Iterator[tuple[int, Concept]]:
        """(index of the image, what a name finds in it); image by image, the names of each in their order."""
        step = self._options["prompts_per_batch"] or _PROMPTS_PER_BATCH[self._device.type]
        n_names = len(self._class_of)
        pairs = torch.cartesian_prod(torch.arange(len(images)), torch.arange(n_names)).to(self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            features = self._features(images)
            for chunk in pairs.split(step):
                yield from self._prompted(features, chunk[:, 0], chunk[:, 1])

    def _features(self, images: Sequence[Rgb]) -> _Features:
        size = (self._side, self._side)
        pixels = torch.cat([square(image, size, self._side, _MEAN, _STD) for image in images])
        vision = self._network.get_vision_features(pixels.to(self._device))
        # The coarsest of the four maps is not used.
        return _Features(vision.fpn_hidden_states[:-1], vision.fpn_position_encoding[-2][:1])

    def _prompted(self, features: _Features, image: Tensor, name: Tensor) -> list[tuple[int, Concept]]:
        """What P names find in as many images: `Sam3Model.forward`, but masks of what is present alone.

        Args:
            features: of the images.
            image: int64 [P], whose features.
            name: int64 [P].
        """
        network, text, words = self._network, self._text[name], self._words[name]
        encoded = network.detr_encoder(
            vision_features=[features.maps[-1][image]],
            text_features=text,
            vision_pos_embeds=[features.positions.expand(len(image), -1, -1, -1)],
            text_mask=words,
        )
        decoded = network.detr_decoder(
            vision_features=encoded.last_hidden_state,
            text_features=text,
            vision_pos_encoding=encoded.pos_embeds_flattened,
            text_mask=words,
            spatial_shapes=encoded.spatial_shapes,
        )
        presence = decoded.presence_logits[-1][:, 0].float().sigmoid()
        # No score exceeds the presence: below the threshold nothing of a name can be seen.
        kept = torch.nonzero(presence > min(self._options["min_presence"], self._options["threshold"]))[:, 0]
        if not len(kept):
            return []
        queries = decoded.intermediate_hidden_states[-1:, kept]
        logits = network.dot_product_scoring(
            decoder_hidden_states=queries, text_features=text[kept], text_mask=words[kept]
        )[0, ..., 0]
        scores, best = logits.float().topk(min(self._options["max_instances"], logits.shape[1]))
        masks = network.mask_decoder(
            decoder_queries=queries[0].gather(1, best[..., None].expand(-1, -1, queries.shape[-1])),
            backbone_features=[level[image[kept]] for level in features.maps],
            encoder_hidden_states=encoded.last_hidden_state[kept],
            prompt_features=text[kept],
            prompt_mask=words[kept],
        )
        scores = scores.sigmoid() * presence[kept, None]
        return [
            (
                i,
                self._concept(
                    n, presence[k], scores[place], masks.pred_masks[place], masks.semantic_seg[place]
                ),
            )
            for place, (k, i, n) in enumerate(
                zip(kept.tolist(), image[kept].tolist(), name[kept].tolist(), strict=True)
            )
        ]

    def _concept(
        self, name: int, presence: Tensor, scores: Tensor, masks: Tensor, semantic: Tensor
    ) -> Concept:
        sure = scores > self._options["instance_score"]
        return Concept(self._class_of[name], presence, scores[sure], masks[sure].float(), semantic[0].float())

    @torch.inference_mode()
    def _embed(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(tokens [N, L, D] of the names, bool [N, L]: which of them are no padding)."""
        from open_clip.tokenizer import SimpleTokenizer

        length = self._network.config.text_config.max_position_embeddings
        ids = SimpleTokenizer(context_length=length)(list(names)).to(self._device)
        words = ids != 0
        # Used once per worker, so that it does not stay on a GPU.
        encoder = self._network.text_encoder.to(self._device)
        text = [
            self._network.get_text_features(chunk, mask.long()).pooler_output
            for chunk, mask in zip(ids.split(_NAMES_AT_ONCE), words.split(_NAMES_AT_ONCE), strict=True)
        ]
        encoder.to("cpu")
        return torch.cat(text), words
