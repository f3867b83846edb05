"""A label set as Python objects: images with label, confidence and segments; a table; a torch data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.utils.data import Dataset

    from segray.models.label_map import LabelMap

_BLOBS = ("image", "label", "confidence")
_SAMPLE_COLUMNS = ["image_id", "status", "width", "height", "label", "confidence"]
_SEGMENT_COLUMNS = ["image_id", "segment_id", "bbox", "area", "class_id", "score", "margin", "rle"]


@dataclass(frozen=True)
class LabelledSegment:
    """A segment and its class.

    Attributes:
        segment_id: its number within the image.
        bbox: x, y, width, height in pixels.
        area: pixels.
        class_id: its class; 0 for the background or no class.
        score: cosine similarity with the class.
        margin: distance of that score to the runner-up's.
    """

    segment_id: int
    bbox: tuple[float, float, float, float]
    area: int
    class_id: int
    score: float
    margin: float
    _rle: dict[str, Any] = field(repr=False)
    _shape: tuple[int, int] = field(repr=False)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """bool [H, W] of the whole image.

        Raises:
            UserError: the label set holds no mask of the image's size.
        """
        from segray.models.masks import decode_rle
        from segray.pipelines.errors import UserError

        try:
            # Its own size decides the memory, and is not believed.
            if tuple(self._rle["size"]) != self._shape:
                raise ValueError(f"a mask of {self._rle['size']} pixels, the image has {list(self._shape)}")
            return decode_rle(self._shape, self._rle["counts"])
        except (ValueError, TypeError) as error:
            raise UserError(f"segment {self.segment_id} is damaged ({error})") from error


@dataclass(frozen=True)
class Sample:
    """A labelled image.

    Attributes:
        image_id: its path below the root of the images.
        label: class ids [H, W], uint8, or uint16 with more than 254 classes.
        confidence: float32 [H, W] in [0, 1].
        segments: its segments, in the order of their ids.
    """

    image_id: str
    label: LabelMap = field(repr=False)
    confidence: NDArray[np.float32] = field(repr=False)
    segments: tuple[LabelledSegment, ...] = field(repr=False)


class LabelSet:
    """A label set, with its corrections; iterating yields a `Sample` per labelled image.

    Args:
        path: its folder or URI.

    Raises:
        UserError: there is no label set.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        from segray.pipelines.corrections.store import CorrectedStore

        self.path = fspath(path)
        self._store = CorrectedStore(self.path)
        self.provenance: dict[str, Any] = self._store.provenance

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class id."""
        return tuple(self.provenance["classes"])

    def __len__(self) -> int:
        """How many images have a label."""
        return sum(status == "ok" for _, status, _ in self._store.statuses())

    def __iter__(self) -> Iterator[Sample]:
        """The labelled images; one part of the label set is in memory at a time."""
        ignore = self._store.ignore_index
        for part in self._store.parts():
            segments: dict[str, list[dict[str, Any]]] = {}
            for row in self._store.segments(part, _SEGMENT_COLUMNS).to_pylist():
                segments.setdefault(row.pop("image_id"), []).append(row)
            for row in self._store.rows(_SAMPLE_COLUMNS, [part]):
                if row["status"] == "ok":
                    yield _sample(row, segments.get(row["image_id"], []), self.path, ignore)

    def to_pandas(self) -> pd.DataFrame:
        """The labels table without its image columns, one row per image, failed ones too.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        rows = ({k: v for k, v in row.items() if k not in _BLOBS} for row in self._store.rows())
        return pd.DataFrame.from_records(list(rows))

    def torch_dataset(self, images: Sequence[str] = ()) -> Dataset[tuple[Tensor, Tensor]]:
        """Image uint8 [3, H, W] and label int64 [H, W] of each labelled image, sorted by image_id.

        Images come from the label set (`embed_images=true`), or from where they were when it was made. They
        must be the same files: those that the label set has no checksum of, or that are in another bucket,
        are read only below `images`.

        Args:
            images: folders or buckets of the images.
        """
        from segray.torch_dataset import LabelSetDataset

        return LabelSetDataset(self.path, images)


def _segment(row: dict[str, Any], shape: tuple[int, int]) -> LabelledSegment:
    return LabelledSegment(_rle=row.pop("rle"), _shape=shape, bbox=tuple(row.pop("bbox")), **row)


def _sample(row: dict[str, Any], segments: list[dict[str, Any]], path: str, ignore_index: int) -> Sample:
    import numpy as np

    from segray.pipelines.errors import UserError
    from segray.pipelines.io.label_png import decode_gray_png, decode_label_png

    shape = (row["height"], row["width"])
    try:
        label = decode_label_png(row["label"]["bytes"], shape, ignore_index)
        confidence = decode_gray_png(row["confidence"]["bytes"], shape)
        labelled = [_segment(segment, shape) for segment in segments]
        labelled.sort(key=lambda segment: segment.segment_id)
    except (ValueError, TypeError) as error:
        # A part may be anyone's: nulls where values must be, PNGs of other images.
        raise UserError(f"{path}: {row['image_id']} is damaged ({error}); see segray verify") from error
    return Sample(row["image_id"], label, np.divide(confidence, 255, dtype=np.float32), tuple(labelled))
