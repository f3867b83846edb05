"""Models of transformers, with weights of one file and the architecture that a name stands for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segray.models.annotators.protocols import AnnotatorModel
from segray.models.architectures import check_numbers, check_size
from segray.models.messages import first_line
from segray.models.sam.geometry import Rgb
from segray.models.segmenters.base import IMAGENET_MEAN, IMAGENET_STD
from segray.models.weights import Checkpoint, WeightsError, load_state_dict, read_card

_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types that torch builds a network with; files may have smaller ones, such as those of 8 bits."""


@dataclass(frozen=True)
class Blueprint:
    """What a model is built from.

    Attributes:
        model: a class of transformers.
        config: its configuration's class.
        arch: arguments of the configuration; a key `arch` in the file's own metadata `segray` goes before it,
            with numbers alone.
        renamed: a file's tensors under transformers' names.
    """

    model: Any
    config: Any
    arch: Mapping[str, Any]
    renamed: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


class PretrainedModel(AnnotatorModel):
    """A family of transformers' models.

    Args:
        network: the model of its `blueprint`.
    """

    @abstractmethod
    def __init__(self, network: nn.Module) -> None: ...

    @staticmethod
    @abstractmethod
    def blueprint(name: str) -> Blueprint:
        """That of a model of the family; transformers is imported here."""

    @classmethod
    def load(cls, name: str, checkpoint: Checkpoint) -> Self:
        """See `AnnotatorModel`."""
        return cls(cls._load(name, checkpoint))

    @classmethod
    def check(cls, name: str, checkpoint: Checkpoint) -> int:
        """The names and shapes of the tensors are compared; their values are not read."""
        return cls(cls._load(name, checkpoint, mapped=True)).size

    @classmethod
    def untrained(cls, name: str) -> Self:
        """See `AnnotatorModel`."""
        blueprint = cls.blueprint(name)
        return cls(blueprint.model(blueprint.config(**blueprint.arch)).eval())

    @classmethod
    def _load(cls, name: str, checkpoint: Checkpoint, *, mapped: bool = False) -> nn.Module:
        return load_pretrained(cls.blueprint(name), checkpoint, name, mapped=mapped)


def load_pretrained(
    blueprint: Blueprint,
    checkpoint: Checkpoint,
    name: str,
    *,
    mapped: bool = False,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A model in evaluation mode on the CPU.

    Args:
        blueprint: of the model.
        checkpoint: the file.
        name: of the model, for messages.
        mapped: leave the values in the file until they are used.
        dtype: of the parameters; None: float32, or with `mapped` that of the file, if a network can have it.

    Raises:
        WeightsError: the file is damaged, or tensors are missing or of another shape.
    """
    state = blueprint.renamed(load_state_dict(checkpoint, mapped=mapped))
    arch = read_card(checkpoint).get("arch", blueprint.arch)
    try:
        check_numbers(arch, blueprint.arch)
        settings = blueprint.config(**arch)
        check_size(lambda: blueprint.model(settings), state)
        with _quiet():
            network, found = blueprint.model.from_pretrained(
                None,
                config=settings,
                state_dict=state,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=dtype or (_type_of(state) if mapped else torch.float32),
            )
    except Exception as error:  # an architecture of somebody else's file raises almost anything
        line = first_line(error)[:200]
        raise WeightsError(f"{checkpoint.path} does not fit the model {name}: {line}") from error
    for what in ("missing_keys", "mismatched_keys"):
        if keys := sorted(map(str, found[what])):
            words = what.replace("_", " ")
            raise WeightsError(f"{checkpoint.path} does not fit the model {name}: {words}: {keys[0]}")
    return network.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar about tensors in memory, and no table of those that do not fit: the error names the first."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _type_of(state: Mapping[str, Tensor]) -> torch.dtype:
    return next((value.dtype for value in state.values() if value.dtype in _TYPES), torch.float32)


def square(
    image: Rgb,
    size: tuple[int, int],
    side: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """An image as float32 [1, 3, side, side], normalised, with zeros right and below.

    Args:
        image: uint8 [H, W, 3].
        size: (height, width) that it is resized to, bilinear with antialiasing.
        side: of the model's square input in pixels.
        mean: of each channel, of values in 0..1; by default that of ImageNet.
        std: the same.
    """
    small = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    shift, scale = (torch.tensor(value)[:, None, None] for value in (mean, std))
    batch = torch.zeros(1, 3, side, side)
    batch[0, :, : size[0], : size[1]] = (pixels - shift) / scale
    return batch
