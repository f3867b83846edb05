"""A trained network that labels images in this process."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from segray.models.label_map import LabelMap
    from segray.models.segmenters.inference import Window
    from segray.models.segmenters.registry import Segmenter


class Network:
    """A network in evaluation mode.

    Attributes:
        classes: the name of each class id.
        module: the torch module; `network.module.to("cuda")` moves it.
        window: which images are predicted piece by piece; None: none.
    """

    def __init__(self, module: Segmenter, classes: tuple[str, ...], window: Window | None) -> None:
        self.module, self.classes, self.window = module, classes, window

    def predict(self, image: str | PathLike[str] | Image | NDArray[np.uint8]) -> LabelMap:
        """Class ids [H, W] of an image at its own size: uint8, or uint16 with more than 254 classes.

        Args:
            image: a path, a PIL image, or RGB pixels uint8 [H, W, 3].

        Raises:
            UserError: the file is not a readable image, or the array has another shape or type.
        """
        import torch

        from segray.models.segmenters.inference import WHOLE
        from segray.pipelines.training.trained import predict_label

        with torch.inference_mode():
            ids = len(self.classes)
            return predict_label(self.module, _pixels(image), self.window or WHOLE, ids=ids)


def load_network(run: str | PathLike[str], window: int | None = None) -> Network:
    """The network of a training run.

    Args:
        run: folder or URI of a run (its best checkpoint is taken) or of a checkpoint.
        window: side of the sliding window; 0: whole images, None: as the run validated,
            by default a window for large images.

    Raises:
        UserError: no checkpoint there, or a damaged one.
    """
    from segray.pipelines.training import trained

    module, state = trained.load_network(fspath(run))
    return Network(module, tuple(state["classes"]), trained.chosen_window(state, window))


def _pixels(image: str | PathLike[str] | Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    import numpy as np
    from PIL.Image import Image as PilImage

    from segray.pipelines.errors import UserError

    if isinstance(image, (str, PathLike)):
        return _read(fspath(image))
    pixels = np.array(image.convert("RGB") if isinstance(image, PilImage) else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(
            f"image: expected RGB pixels uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels


def _read(path: str) -> NDArray[np.uint8]:
    from segray.pipelines.errors import UserError
    from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
    from segray.pipelines.io.sources import read_image

    try:
        return decode(read_image(path), ImageOptions())
    except ImageProblem as problem:
        raise UserError(f"{path}: {problem.reason}") from problem
