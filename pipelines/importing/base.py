"""What a file of another tool says about one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace, is_wide
from segray.pipelines.training.data.coco_masks import check_segmentations, draw_shapes
from segray.pipelines.training.data.labelled_outlines import Outline, class_id_of


@dataclass(frozen=True)
class ImageMask:
    """The mask of one image.

    Attributes:
        name: of the image, as the file has it.
        where: in the file, for messages.
        draw: the mask with the ids of a label space, for an image of (height, width); ignored pixels have its
            ignore index. Raises a ValueError if it does not fit.
        set_id: of the label set that the task was made for; "" where the file does not say.
    """

    name: str
    where: str
    draw: Callable[[LabelSpace, tuple[int, int]], LabelMap]
    set_id: str = ""


def drawn_outlines(
    outlines: tuple[Outline, ...], size: tuple[int, int], *, ordered: bool
) -> Callable[[LabelSpace, tuple[int, int]], LabelMap]:
    """`ImageMask.draw` of outlines; pixels outside of them are background.

    Args:
        outlines: the lowest first.
        size: (height, width) that the file says.
        ordered: later ones lie on top; else smaller ones do.
    """

    def draw(space: LabelSpace, wanted: tuple[int, int]) -> LabelMap:
        if size != wanted:
            raise ValueError(f"is {size[1]}x{size[0]} pixels, its image {wanted[1]}x{wanted[0]}")
        shapes = [
            (n, _id(outline.name, space), outline.segmentation) for n, outline in enumerate(outlines, 1)
        ]
        try:
            check_segmentations([(number, segmentation) for number, _, segmentation in shapes], *wanted)
        except ValueError as problem:
            raise ValueError(f"is not drawn{problem}") from None
        return draw_shapes(shapes, wanted, ordered=ordered, wide=is_wide(len(space.classes)))

    return draw


def _id(name: str, space: LabelSpace) -> int:
    class_id = class_id_of(name, space)
    if class_id is None:
        raise ValueError(f"has class {name!r}, which is none of the label set's")
    return class_id
