"""A trained network that labels images in this process."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from segray.models.label_map import LabelMap
    from segray.models.precision import PredictPrecisionOrAuto
    from segray.models.segmenters.inference import Inference, Window
    from segray.models.segmenters.registry import Segmenter
    from segray.models.segmenters.views import Views
    from segray.pipelines.training.trained import PredictedImage

    Source = str | PathLike[str] | Image | NDArray[np.uint8]


class Network:
    """A network in evaluation mode.

    Attributes:
        classes: the name of each class id.
        module: the torch module; `network.module.to("cuda")` moves it.
        window: which images are predicted piece by piece; None: none.
        views: of an image, whose probabilities are averaged; None: the image alone.
        precision: that the network computes in; auto: bf16 on a GPU that has it.
    """

    def __init__(
        self,
        module: Segmenter,
        classes: tuple[str, ...],
        window: Window | None,
        views: Views | None = None,
        precision: PredictPrecisionOrAuto = "auto",
    ) -> None:
        self.module, self.classes, self.window = module, classes, window
        self.views, self.precision = views, precision

    def predict(self, image: Source) -> LabelMap:
        """Class ids [H, W] of an image at its own size: uint8, or uint16 with more than 254 classes.

        Args:
            image: a path, a PIL image, or RGB pixels uint8 [H, W, 3].

        Raises:
            UserError: the file is not a readable image, the array has another shape or type, or the network's
                output is not finite.
        """
        return self._predicted(image).label

    def predict_with_confidence(self, image: Source) -> tuple[LabelMap, NDArray[np.float32]]:
        """As `predict`, and the probability of each pixel's class, float32 [H, W].

        Args:
            image: as in `predict`.

        Raises:
            UserError: as `predict`.
        """
        predicted = self._predicted(image)
        return predicted.label, predicted.confidence

    def _predicted(self, image: Source) -> PredictedImage:
        import torch

        from segray.pipelines.errors import UserError
        from segray.pipelines.io.images import ImageProblem
        from segray.pipelines.training.trained import predict_image

        pixels = _pixels(image)
        try:
            with torch.inference_mode():
                return predict_image(self.module, pixels, self._inference(), ids=len(self.classes))
        except ImageProblem as problem:
            raise UserError(problem.reason) from problem

    def _inference(self) -> Inference:
        from segray.models.precision import device_precision
        from segray.models.segmenters.inference import Inference, Window
        from segray.models.segmenters.views import PLAIN

        device = next(self.module.parameters()).device
        precision = device_precision(device) if self.precision == "auto" else self.precision
        return Inference(self.window or Window(), self.views or PLAIN, precision)


def load_network(
    run: str | PathLike[str],
    window: int | None = None,
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    precision: PredictPrecisionOrAuto = "auto",
) -> Network:
    """The network of a training run.

    Args:
        run: folder or URI of a run (its best checkpoint is taken) or of a checkpoint.
        window: side of the sliding window; 0: whole images, None: as the run validated,
            by default a window for large images.
        flip: average with the prediction of the mirror image.
        scales: average the predictions at these sizes, relative to the image's.
        precision: that the network computes in; auto: bf16 on a GPU that has it.

    Raises:
        UserError: no checkpoint there, a damaged one, or a value as `segray predict` refuses it.
    """
    from segray.pipelines.config.commands.predict import PredictConfig
    from segray.pipelines.config.loading import load_values
    from segray.pipelines.training import trained

    views = {"flip": flip, "scales": list(scales)}
    keys = {"checkpoint": fspath(run), "images": "-", "out": "-", "views": views, "precision": precision}
    config = load_values(PredictConfig, None, {**keys, "window": window})
    module, state = trained.load_network(config.checkpoint)
    chosen = trained.chosen_window(state, config.window)
    return Network(module, tuple(state["classes"]), chosen, trained.views_of(config.views), config.precision)


def _pixels(image: Source) -> NDArray[np.uint8]:
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
