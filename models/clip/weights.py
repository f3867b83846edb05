"""Where the weights of an open_clip model come from, and what is published about them."""

from __future__ import annotations

import difflib
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segray.models import weights as files
from segray.models.messages import first_line
from segray.models.weights import Checkpoint, UnavailableError, WeightsError

Triple = tuple[float, float, float]

OPENAI_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Triple = (0.26862954, 0.26130258, 0.27577711)

_HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_HUB_CONFIG = "open_clip_config.json"
_MAX_CONFIG = 1 << 20
_MOST, _LEAST_STD = 256, 1e-3
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A weight file and the facts about its network that the tensors do not show.

    Attributes:
        checkpoint: the file.
        quick_gelu: the network was trained with QuickGELU.
        mean: of the RGB channels in [0, 1] that it was trained with.
        std: of the RGB channels, as `mean`.
    """

    checkpoint: Checkpoint
    quick_gelu: bool = False
    mean: Triple = OPENAI_MEAN
    std: Triple = OPENAI_STD


def find_weights(name: str, weights: str | None, sha256: str | None = None) -> Source:
    """Find, or fetch, the weights of the open_clip model `name`.

    Args:
        name: an open_clip model name.
        weights: one of open_clip's pretrained tags, a local file, a URL or
            `hf-hub:owner/repo[@revision][:filename]`.
        sha256: refuse any other file.

    Raises:
        ValueError: no weights given, or an unknown tag.
        WeightsError: the file cannot be had, or is a TorchScript archive.
    """
    from segray.models.clip.catalogue import get_pretrained_cfg, list_pretrained_tags_by_model

    tags: list[str] = list_pretrained_tags_by_model(name)
    places = "a local file, an https:// URL or hf-hub:owner/repo[@revision][:filename]"
    known = f"one of the tags {', '.join(tags)}, {places}" if tags else places
    if weights is None:
        raise ValueError(f"CLIP model {name} needs weights: {known}")
    published = get_pretrained_cfg(name, weights)
    if published:
        source = _from_tag(published, sha256)
    elif weights.startswith("hf-hub:"):
        source = _from_hub(weights, sha256)
    elif "/" in weights or "." in weights:
        source = Source(files.resolve(weights, sha256=sha256))
    else:
        close = difflib.get_close_matches(weights, tags, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"CLIP model {name} has no weights {weights!r}{hint}; give {known}")
    _refuse_torchscript(source.checkpoint)
    return source


def _from_tag(published: Mapping[str, Any], sha256: str | None) -> Source:
    repo, _, filename = published["hf_hub"].rpartition("/")
    checkpoint = _hub_file(repo, filename, sha256) if repo else files.resolve(published["url"], sha256=sha256)
    return _described(Source(checkpoint), published, published.get("quick_gelu", False))


def _from_hub(spec: str, sha256: str | None) -> Source:
    file = files.parse_hub(spec, "")
    repo = f"{file.repo}@{file.revision}" if file.revision else file.repo
    source = Source(_hub_file(repo, file.filename, sha256))
    try:
        path = files.resolve(f"hf-hub:{repo}:{_HUB_CONFIG}").path
    except WeightsError:
        _LOG.warning(
            "%s has no %s: using OpenAI's mean and std, and the model's own activation", repo, _HUB_CONFIG
        )
        return source
    try:
        return _described(source, *_published(path))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not open_clip's configuration: {first_line(error)[:200]}") from error


def _published(path: Path) -> tuple[Mapping[str, Any], bool]:
    """Preprocessing and activation of an open_clip_config.json, which may be anyone's.

    Raises:
        ValueError, RecursionError: not such a file.
    """
    if (size := path.stat().st_size) > _MAX_CONFIG:
        raise ValueError(f"{size} bytes (allowed: at most {_MAX_CONFIG})")
    config = json.loads(path.read_bytes())
    parts = config if isinstance(config, dict) else {"model_cfg": None}
    preprocessing, model = (parts.get(key, {}) for key in ("preprocess_cfg", "model_cfg"))
    if not (isinstance(preprocessing, dict) and isinstance(model, dict)):
        raise ValueError("not a mapping with preprocess_cfg and model_cfg")
    return preprocessing, model.get("quick_gelu", False) is True


def _described(source: Source, preprocessing: Mapping[str, Any], quick_gelu: bool) -> Source:
    mean, std = (_triple(preprocessing, name, getattr(source, name)) for name in ("mean", "std"))
    if min(std) < _LEAST_STD:
        raise ValueError(f"std {std} (allowed: {_LEAST_STD} or more)")
    return replace(source, mean=mean, std=std, quick_gelu=quick_gelu)


def _triple(preprocessing: Mapping[str, Any], name: str, default: Triple) -> Triple:
    values = preprocessing.get(name) or default
    numbers = isinstance(values, list | tuple) and all(type(v) in (int, float) for v in values)
    if not numbers or len(values) != 3 or not all(abs(v) <= _MOST for v in values):
        raise ValueError(f"{name} is not three numbers up to {_MOST}")
    red, green, blue = map(float, values)
    return red, green, blue


def _hub_file(repo: str, filename: str, sha256: str | None) -> Checkpoint:
    """A repository's weights; without a filename one of open_clip's own names, the safe format first."""
    names = (filename,) if filename else _HUB_WEIGHTS
    errors: list[UnavailableError] = []
    for name in names:
        try:
            return files.resolve(f"hf-hub:{repo}:{name}", sha256=sha256)
        except UnavailableError as error:
            if error.offline:
                raise
            errors.append(error)
    raise errors[0]


def _refuse_torchscript(checkpoint: Checkpoint) -> None:
    if not zipfile.is_zipfile(checkpoint.path):
        return
    with zipfile.ZipFile(checkpoint.path) as archive:
        scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if scripted:
        raise WeightsError(
            f"{checkpoint.path} is a TorchScript archive, as OpenAI published CLIP; its code is never run: "
            "use the tag openai (the same weights as tensors) or save its state dict as safetensors"
        )
