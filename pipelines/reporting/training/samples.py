"""One validation image of a training run: image, zero-shot label, enhanced label, prediction, truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segray.models.label_map import label_dtype
from segray.models.label_space import ignore_index_of
from segray.models.metrics import class_iou, confusion_matrix, mean_iou
from segray.models.segmenters.inference import Inference, predict
from segray.models.segmenters.registry import Segmenter
from segray.pipelines.printing import visible
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.label_set.samples import Legend
from segray.pipelines.training.data.datasets import LabelledImages, UnlabelledImages
from segray.pipelines.training.data.samples import Sample


@dataclass(frozen=True)
class Panel:
    """One label map of an image.

    Attributes:
        name: of the label map.
        image: data URI; "" if there is no label.
        problem: why there is no label.
        miou: over the classes in it and in the truth; None for the truth itself.
    """

    name: str
    image: str
    problem: str = ""
    miou: float | None = None


@dataclass(frozen=True)
class Example:
    """What the page shows of one validation image.

    Attributes:
        ratio: width / height of the image boxes, limited for very long images.
        confidence: highest class probability of a pixel, mean over the pixels.
        miou: of the prediction.
        photo: data URI.
        classes: (name, colour, IoU of the prediction) of each class but 0 in truth or prediction.
        from_model: share of the pixels whose enhanced label is the network's prediction; None without labels.
    """

    image_id: str
    size: str
    ratio: float
    confidence: float
    miou: float
    photo: str
    panels: list[Panel]
    classes: list[tuple[str, str, float]]
    from_model: float | None = None


@dataclass(frozen=True)
class Network:
    """A trained network and how it predicts.

    Attributes:
        segmenter: in evaluation mode; its device is used.
        inference: how images are predicted.
        tau: from this probability on the enhanced label is the network's class.
    """

    segmenter: Segmenter
    inference: Inference
    tau: float

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The classes of an image uint8 [3, H, W] and their probabilities, [H, W] on the CPU."""
        prediction = predict(self.segmenter, image, self.inference)
        return prediction.label.cpu().long(), prediction.confidence.cpu()


class ExampleRenderer:
    """Renders validation images.

    Args:
        network: predicts.
        samples: the images, each with a mask.
        labels: folder or URI of the label set; None: no zero-shot and enhanced labels.
        legend: names and colours of the data's classes.
        classes: their original names in the data.

    Raises:
        UserError: the label set has other classes.
    """

    def __init__(
        self,
        network: Network,
        samples: Sequence[Sample],
        labels: str | None,
        legend: Legend,
        classes: Sequence[str],
    ) -> None:
        self._network, self._legend = network, legend
        self._unknown = ignore_index_of(len(classes))
        self._images = LabelledImages(samples)
        self._zero_shot = UnlabelledImages(samples, labels, classes) if labels else None

    def render(self, index: int) -> Example:
        """Render image `index` of the samples.

        Raises:
            UserError: its files cannot be read, or do not match.
        """
        image, mask = self._images[index]
        truth = mask.long()
        prediction, probability = self._network.predict(image)
        label_panels, from_model = self._labels(index, truth, prediction, probability)
        confusion = confusion_matrix(truth, prediction, len(self._legend.names), self._unknown)
        height, width = truth.shape
        return Example(
            image_id=visible(self._images.samples[index].image_id),
            size=f"{width} x {height}",
            ratio=min(max(width / height, 0.6), 3.0),
            confidence=float(probability.mean()),
            miou=mean_iou(confusion),
            photo=thumbnails.photo(image.permute(1, 2, 0).contiguous().numpy()),
            panels=[
                *label_panels,
                self._panel("prediction", prediction, truth),
                Panel("truth", self._overlay(truth)),
            ],
            classes=self._classes(class_iou(confusion).tolist()),
            from_model=from_model,
        )

    def _labels(
        self, index: int, truth: Tensor, prediction: Tensor, probability: Tensor
    ) -> tuple[list[Panel], float | None]:
        """Zero-shot and enhanced label as in validation, and the share of pixels from the network."""
        if self._zero_shot is None:
            return [], None
        zero_shot = self._zero_shot[index][1].long()
        from_model = (probability >= self._network.tau) | (zero_shot == self._unknown)
        unknown = bool((zero_shot == self._unknown).all())
        first = (
            Panel("zero-shot", "", "no zero-shot label of this image")
            if unknown
            else self._panel("zero-shot", zero_shot.masked_fill(zero_shot == self._unknown, 0), truth)
        )
        enhanced = self._panel("enhanced", torch.where(from_model, prediction, zero_shot), truth)
        return [first, enhanced], float(from_model.float().mean())

    def _panel(self, name: str, label: Tensor, truth: Tensor) -> Panel:
        confusion = confusion_matrix(truth, label, len(self._legend.names), self._unknown)
        return Panel(name, self._overlay(label), miou=mean_iou(confusion))

    def _overlay(self, label: Tensor) -> str:
        shown = label.masked_fill(label == self._unknown, 0).numpy().astype(label_dtype(self._unknown))
        return thumbnails.label_overlay(shown, self._legend.palette)

    def _classes(self, iou: Sequence[float]) -> list[tuple[str, str, float]]:
        legend = self._legend
        present = [i for i, value in enumerate(iou) if i and not math.isnan(value)]
        return [(legend.names[i], legend.colour(i), iou[i]) for i in present]
