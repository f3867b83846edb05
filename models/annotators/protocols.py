"""What the pipeline knows of a model that annotates: a source of masks, or a labeller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

if TYPE_CHECKING:  # numpy and torch take seconds to import
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from segray.models.masks import Segment
    from segray.models.weights import Checkpoint


POINT_OPTIONS = frozenset(
    {
        "points_per_side",
        "points_per_batch",
        "pred_iou_thresh",
        "stability_score_thresh",
        "stability_score_offset",
        "box_nms_thresh",
        "min_mask_region_area",
    }
)
"""Options of families that prompt with a grid of points, over the whole image."""


class MaskSource(Protocol):
    """Images to class-agnostic segments."""

    def generate(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[list[Segment]]:
        """The segments of each image.

        Args:
            images: uint8 [H, W, 3] RGB each, the images or reduced copies of them.
            sizes: (height, width) of the originals, to which the segments refer; None: the images are these.
        """
        ...


class Labeller(Protocol):
    """Images to segments with a score per class."""

    def label(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[tuple[list[Segment], NDArray[np.float32]]]:
        """The segments of each image, and their scores.

        Args:
            images: uint8 [H, W, 3] RGB each, the images or reduced copies of them.
            sizes: (height, width) of the originals, to which the segments refer; None: the images are these.

        Returns:
            Per image K segments and float32 [K, C] in 0..1: the score of each class id for each segment.
        """
        ...


class AnnotatorModel(ABC):
    """A model that annotates, on the CPU with its weights.

    Attributes:
        options: keys that the family takes, besides name, weights, sha256 and precision.
        size: long side of its input in pixels.
        has_embedding: `embedding` is implemented.
    """

    options: ClassVar[frozenset[str]] = frozenset()
    has_embedding: ClassVar[bool] = False
    size: int

    @classmethod
    @abstractmethod
    def load(cls, name: str, checkpoint: Checkpoint) -> Self:
        """The model with the weights of a file.

        Raises:
            WeightsError: the file does not fit the model, or is damaged.
        """

    @classmethod
    def check(cls, name: str, checkpoint: Checkpoint) -> int:
        """Raise what `load` would raise; the long side of the input in pixels."""
        return cls.load(name, checkpoint).size

    @classmethod
    def untrained(cls, name: str) -> Self | None:  # noqa: ARG003  those of other packages need not have it
        """The model with random weights, to measure what it costs without a download; None: it has none."""
        return None

    @classmethod  # noqa: B027  most have nothing to check
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise a ValueError if options contradict each other."""


class MaskModel(AnnotatorModel):
    """A model that finds segments; a family of models subclasses it.

    Its `options` are keys of `sam.`.
    """

    @abstractmethod
    def source(self, device: str, options: Mapping[str, Any]) -> MaskSource:
        """Segments by this model.

        Args:
            device: "cpu" or "cuda"; the model moves there.
            options: those of `options`, each with a value, and `precision`: fp32, bf16 or fp16.

        Raises:
            ValueError: options that contradict each other.
        """

    def embedding(self, image: NDArray[np.uint8], grid: tuple[int, int], device: str) -> Tensor:
        """The encoder's features of a whole image on a grid, float32 [h, w, C].

        Args:
            image: uint8 [H, W, 3] RGB.
            grid: (h, w), cells of equal size over the image.
            device: where the encoder runs.
        """
        raise NotImplementedError


class LabelModel(AnnotatorModel):
    """A model that finds segments of named classes; a family of models subclasses it.

    Its `options` are keys of `labeller.`.
    """

    @abstractmethod
    def labeller(self, device: str, names: Sequence[Sequence[str]], options: Mapping[str, Any]) -> Labeller:
        """Segments of classes by this model.

        Args:
            device: "cpu" or "cuda"; the model moves there.
            names: the names of each class id, the best known first; those of id 0, the background, may be
                none.
            options: those of `options`, each with a value, `precision`: fp32 or bf16, and `threshold`, the
                least score of a segment with a class.

        Raises:
            ValueError: options that contradict each other.
        """
