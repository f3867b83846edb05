"""From a name to a checkpoint: built-in file, local path, URL or Hugging Face repository, always hashed.

No pickle is ever executed: `.safetensors` are read by safetensors, everything else by
`torch.load(weights_only=True)`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from segray.models import downloads
from segray.models.archive_checks import OddArchiveError, check_unpacked, is_archive
from segray.models.messages import first_line
from segray.models.weight_checks import check_header, check_pickles, check_tensors

BUILTIN = ("clip", "sam")
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
_HUB = re.compile(r"hf-hub:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?(?::([\w./ -]+))?", re.ASCII)
_SHOWN = 3
_LONGEST = 100
"""Characters of a name in a message."""
_LOG = logging.getLogger(__name__)


class WeightsError(ValueError):
    """Weights that cannot be found, fetched, trusted or loaded; one line that says what to do."""


class UnavailableError(WeightsError):
    """Weights that are neither on this machine nor fetchable; its arguments are the reason and the remedy."""

    def __str__(self) -> str:
        return "; ".join(self.args)

    def for_model(self, option: str) -> WeightsError:
        """The same reason, with the remedies for the model of `segray annotate` that `option` sets.

        Args:
            option: `sam` or `clip`.
        """
        return WeightsError(
            f"no weights for {option}.model: {self.args[0]}; fetch the files elsewhere and give their local "
            "paths, sam.weights=FILE clip.weights=FILE (see docs/real-models.md), or try segray offline with "
            "sam.model=builtin clip.model=builtin"
        )

    @property
    def offline(self) -> bool:
        """Whether the Hugging Face hub cannot be reached; another file name would only wait again."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        return isinstance(self.__cause__, LocalEntryNotFoundError)


@dataclass(frozen=True)
class Checkpoint:
    """A weights file on this machine, and the hex SHA-256 of its bytes."""

    path: Path
    sha256: str


def resolve(spec: str, *, sha256: str | None = None, cache_dir: Path | None = None) -> Checkpoint:
    """Find, or fetch, the file that `spec` names and hash it.

    Args:
        spec: `builtin:NAME`, a local path, an https:// URL, or
            `hf-hub:owner/repo[@revision][:filename]` (filename defaults to model.safetensors).
        sha256: the expected hex digest; without it a `.pth` archive is checked by its own checksums.
        cache_dir: where URLs are kept, default `$SEGRAY_CACHE` or `~/.cache/segray`.

    Raises:
        UnavailableError: the URL or repository cannot be fetched.
        WeightsError: no such file, or other bytes than expected.
    """
    if spec.startswith("builtin:"):
        path, sha256 = _builtin(spec), sha256 or _builtin_sha256(spec)
    elif spec.startswith(("https://", "http://")):
        path = _cached(spec, sha256, cache_dir)
    elif spec.startswith("hf-hub:"):
        path = _from_hub(spec, cache_dir)
    else:
        path = Path(spec).expanduser()
    return _checked(path, spec, sha256)


def load_state_dict(checkpoint: Checkpoint, *, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU, floating point ones as float32.

    A `{"state_dict": ...}` or `{"model": ...}` around them and a `module.` prefix on every key are taken off.

    Args:
        checkpoint: the file.
        mapped: leave the tensors in the file, with its types, until their values are used; where the format
            allows it.

    Raises:
        WeightsError: damaged, not a state dict, or a pickle of anything but tensors (nothing in it is run).
    """
    path = checkpoint.path
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, mapped)
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path} holds no state dict (a mapping of names to tensors)")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            shown, kind = repr(key)[:_LONGEST], type(value).__name__
            raise WeightsError(f"{path} is not a state dict: {shown} is a {kind}, not a tensor")
    _check_tensors(path, state)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state if mapped else _as_float32(path, state)


def _check_tensors(path: Path, state: Mapping[object, Tensor]) -> None:
    try:
        check_tensors(state.values())
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    if odd := next((key for key in state if not isinstance(key, str)), None):
        raise WeightsError(f"{path} is not a state dict: its key {repr(odd)[:_LONGEST]} is not a name")


def _as_float32(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    except (RuntimeError, NotImplementedError) as error:  # of types that only a few operations know
        raise WeightsError(f"{path}: its tensors cannot be read as float32 ({_line(error)})") from error


def load_into(module: nn.Module, checkpoint: Checkpoint, name: str) -> None:
    """Copy a checkpoint's tensors into `module`, called `name` in messages; every key and shape must fit.

    Raises:
        WeightsError: as `fitting_state` raises.
    """
    module.load_state_dict(fitting_state(module, checkpoint, name))


def fitting_state(
    module: nn.Module, checkpoint: Checkpoint, name: str, *, mapped: bool = False
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, if every key and shape fits `module`, called `name` in messages.

    Args:
        module: on any device, "meta" included.
        checkpoint: the file.
        name: of the model.
        mapped: see `load_state_dict`.

    Raises:
        WeightsError: lists the first keys that are missing, unexpected or of another shape.
    """
    state, expected = load_state_dict(checkpoint, mapped=mapped), module.state_dict()
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems = [
        ("missing", [key for key in expected if key not in state]),
        ("unexpected", [key for key in state if key not in expected]),
        ("wrong shapes", shapes),
    ]
    listed = "; ".join(f"{what}: {_first(items)}" for what, items in problems if items)
    if listed:
        raise WeightsError(f"{checkpoint.path} does not fit the model {name}: {listed}")
    return state


def read_card(checkpoint: Checkpoint) -> dict[str, Any]:
    """The JSON under the metadata key `segray` of a safetensors file; empty where there is none.

    Raises:
        WeightsError: the file is damaged or its `segray` metadata is not a JSON object.
    """
    if checkpoint.path.suffix != ".safetensors":
        return {}
    try:
        check_header(checkpoint.path)
        with safe_open(checkpoint.path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("segray", "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise WeightsError(f"{checkpoint.path} is damaged: {_line(error)}") from error
    if not isinstance(card, dict):
        raise WeightsError(f"{checkpoint.path}: its metadata 'segray' must be a JSON object")
    return card


def _builtin(spec: str) -> Path:
    name = spec.removeprefix("builtin:")
    if name not in BUILTIN:
        raise WeightsError(f"no built-in weights {name!r}; there are {', '.join(BUILTIN)}")
    return BUILTIN_FOLDER / f"{name}.safetensors"


def _builtin_sha256(spec: str) -> str | None:
    sums = BUILTIN_FOLDER / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.exists() else []
    digests = {name: digest for digest, name in (line.split() for line in lines if line.strip())}
    return digests.get(_builtin(spec).name)


def _checked(path: Path, spec: str, expected: str | None) -> Checkpoint:
    """Hash the file; compare with the expected digest, or with a zip archive's own checksums."""
    if not path.is_file():
        raise WeightsError(f"no weights file at {path} (given as {spec!r}); check the path")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if is_archive(file):
                _check_archive(file, path, checksums=expected is None)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {_line(error)}") from error
    if expected is not None and digest != expected.lower():
        raise WeightsError(f"{path} has sha256 {digest}, expected {expected}; remove it and get it again")
    return Checkpoint(path, digest)


def _check_archive(file: IO[bytes], path: Path, *, checksums: bool) -> None:
    """`check_unpacked`, and its checksums: torch.load compares none, and a flipped byte becomes a weight."""
    try:
        check_unpacked(file)
        bad = zipfile.ZipFile(file).testzip() if checksums else None
    except OddArchiveError as error:
        raise WeightsError(f"{path} {error}; get it again") from error
    except OSError:
        raise
    except Exception as error:  # damaged bytes raise almost anything in zipfile
        raise WeightsError(f"{path} is damaged: {_line(error)}; get it again") from error
    if bad is not None:
        raise WeightsError(f"{path} is damaged: the checksum of its record {bad} is wrong; get it again")


def _cached(url: str, sha256: str | None, cache_dir: Path | None) -> Path:
    """The URL's file in the cache, fetched if it is not there yet."""
    if not url.startswith("https://"):
        raise WeightsError(f"{url} is not encrypted: use an https:// address, or fetch it by hand")
    root = cache_dir or Path(os.environ.get("SEGRAY_CACHE") or "~/.cache/segray").expanduser()
    name = Path(urlsplit(url).path).name or "weights"
    target = root / "weights" / hashlib.sha256(url.encode()).hexdigest()[:12] / name
    if target.exists():
        return target
    _LOG.warning("downloading %s to %s", url, target)
    # A unique temporary name: several processes may fetch the same file at once.
    temporary = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        downloads.fetch(url, temporary, sha256)
        temporary.replace(target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        by_hand = f"fetch it by hand and put it at {target}, or give a local path as the weights"
        raise UnavailableError(f"cannot download {url}: {_line(error)}", by_hand) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository.

    Attributes:
        revision: branch, tag or commit; None: the main branch.
    """

    repo: str
    revision: str | None
    filename: str

    @property
    def spec(self) -> str:
        """As `resolve` takes it."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf-hub:{self.repo}{revision}:{self.filename}"


def parse_hub(spec: str, filename: str = "model.safetensors") -> HubFile:
    """The parts of `hf-hub:owner/repo[@revision][:filename]`.

    Args:
        spec: as above.
        filename: where the spec has none.

    Raises:
        WeightsError: another form.
    """
    match = _HUB.fullmatch(spec)
    if match is None or ".." in spec:
        raise WeightsError(f"{spec!r} is not of the form hf-hub:owner/repo[@revision][:filename]")
    return HubFile(match[1], match[2], match[3] or filename)


def _from_hub(spec: str, cache_dir: Path | None) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    # Its own warnings tell of each attempt; the one error at the end says it all.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    file = parse_hub(spec)
    repo, name, revision = file.repo, file.filename, file.revision
    try:
        if not isinstance(try_to_load_from_cache(repo, name, cache_dir=cache_dir, revision=revision), str):
            _announce_hub_download(file)
        with downloads.largest_file(downloads.MAX_BYTES), downloads.plain_hub():
            return Path(hf_hub_download(repo, name, cache_dir=cache_dir, revision=revision))
    except Exception as error:  # the client lets errors of several HTTP libraries through
        by_hand = "go online once, or fetch it by hand and give its local path as the weights"
        reason = f"cannot get {file.filename} of the Hugging Face repository {file.repo}: {_line(error)}"
        raise UnavailableError(reason, by_hand) from error


def _announce_hub_download(file: HubFile) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return
    _LOG.warning("downloading %s of the Hugging Face repository %s", file.filename, file.repo)
    try:
        url = hf_hub_url(file.repo, file.filename, revision=file.revision)
        size = get_hf_file_metadata(url).size or 0
    except Exception:  # noqa: BLE001  the download itself reports what is wrong
        return
    if size > downloads.MAX_BYTES:
        raise ValueError(f"it has {size} bytes (allowed: at most {downloads.MAX_BYTES})")


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        check_header(path)
        return load_file(path)
    except Exception as error:  # a header that lies raises almost anything in safetensors and torch
        raise WeightsError(f"{path} is not a readable safetensors file: {_line(error)[:200]}") from error


def _read_pickle(path: Path, mapped: bool) -> Any:
    try:
        # Files of the format before zip archives cannot be mapped.
        mapped = mapped and zipfile.is_zipfile(path)
        check_pickles(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {_line(error)}") from error
    except Exception as error:  # damaged bytes raise almost anything in the unpickler
        reason = "it is damaged or holds more than tensors, and pickled code is never run"
        why = _line(error)[:150] if type(error) is ValueError else type(error).__name__
        raise WeightsError(f"{path} is refused: {reason} ({why})") from error


def _first(items: list[str]) -> str:
    rest = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(item[:_LONGEST] for item in items[:_SHOWN]) + rest


def _line(error: BaseException) -> str:
    """The first line of an error's text, without a full stop: it becomes part of a sentence."""
    return first_line(error).rstrip(".")
