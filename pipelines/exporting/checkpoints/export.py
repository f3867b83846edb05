"""`segray export checkpoint=`: the network that `predict` uses, as one file."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from segray.models.messages import first_line
from segray.models.segmenters.portable import PortableNetwork
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.checkpoints.card import model_card
from segray.pipelines.exporting.checkpoints.description import MADE_BY, describe
from segray.pipelines.exporting.checkpoints.formats import FORMATS, CheckpointFormat, quiet
from segray.pipelines.exporting.hub import hub_repo
from segray.pipelines.io import storage
from segray.pipelines.training.trained import find_checkpoint, load_network
from segray.pipelines.understood import classes_line, line, show

_MARK = re.compile(rb'"made_by\\?": \\?"' + MADE_BY.encode())
"""In the description, which every format holds as it is; safetensors escapes its quotes."""


@dataclass(frozen=True)
class CheckpointResult:
    """What `export` of a checkpoint wrote; as text, the summary that the command prints.

    Attributes:
        out: path or URI of the file.
        size: its bytes.
        network: name of the network.
        classes: the name of each class id.
        miou: validation mIoU of the checkpoint, in [0, 1]; None where it is not known.
        hub: address of the repository that it was pushed to.
    """

    out: str
    size: int
    network: str
    classes: tuple[str, ...]
    miou: float | None
    hub: str | None = None

    def __str__(self) -> str:
        return "\n".join(_summary(self))


def execute(config: ExportConfig) -> CheckpointResult:
    """Write the file.

    Raises:
        UserError: no checkpoint, a package that is missing, an `out` of something else, or a network that
            the format cannot hold (2), or a full disk (1).
    """
    form = FORMATS[config.format]
    _check_packages(config.format, form)
    _check_out(config.out)
    repo = hub_repo(config)
    uri = find_checkpoint(str(config.checkpoint))
    module, state = load_network(uri)
    portable = PortableNetwork(module, config.pixels)
    text = describe(portable, state, form, uri)
    described = json.loads(text)
    show([classes_line(described["classes"])])
    data = _encoded(config.format, portable, text, described["network"])
    storage.write_atomic(config.out, data)
    address = None
    if repo is not None:
        name = posixpath.basename(storage.split_query(config.out)[0])
        card = model_card(uri, state, described, name)
        address = repo.push_files({name: data, "README.md": card.encode()})
    return CheckpointResult(
        config.out,
        len(data),
        described["network"],
        tuple(described["classes"]),
        described["validation_miou"],
        address,
    )


def _encoded(name: str, portable: PortableNetwork, text: str, network: str) -> bytes:
    try:
        with quiet(), Waiting(f"the operations of {network} to be recorded as {name}"):
            return FORMATS[name].encode(portable, text)
    except Exception as error:  # the exporters raise whatever the operator that they lack raises
        reason = first_line(error)[:200]
        raise UserError(f"format: {name} cannot hold the network {network}: {reason}") from error


def _check_packages(name: str, form: CheckpointFormat) -> None:
    if package := form.missing():
        raise UserError(f'format: {name} needs the package {package}: pip install "segray[onnx]"')


def _check_out(out: str) -> None:
    """Refuse to replace what is not an export."""
    try:
        found = storage.stat(out)
    except FileNotFoundError:
        return
    where = storage.display(out)
    if found is None:
        raise UserError(f"out={where} is a folder; a checkpoint is exported as one file")
    if not _MARK.search(storage.read_bytes(out)):
        raise UserError(f"out={where} is a file that {MADE_BY} did not write; give another out=FILE")


def _summary(result: CheckpointResult) -> Iterator[str]:
    figure = "" if result.miou is None else f", {result.miou:.1%} mIoU in its validation"
    yield line("network", f"{result.network}, {len(result.classes)} classes{figure}")
    if result.hub is not None:
        yield line("pushed to", result.hub)
    yield line("wrote", f"{storage.display(result.out)} ({result.size / 1e6:.1f} MB)")
