"""Label a few images in this process: the stages of the graph, without a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from segray.pipelines.annotation.in_process import Stages
from segray.pipelines.annotation.parts import PartWriter
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.engine import single_process
from segray.pipelines.engine.cpu import available_cores
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import is_sized
from segray.pipelines.io.manifest import ImageRef

_ROWS_PER_PART = 8


def suits(config: AnnotateConfig, n_pending: int) -> bool:
    """Whether to label the pending images in this process: few, no cluster and no workers requested."""
    if any(map(is_sized, config.model_stages.values())):
        return False
    return single_process.suits(config.out, n_pending, config.address, config.grow)


def label(prepared: Prepared, refs: Iterable[ImageRef], ledger: Ledger, token: str) -> None:
    """Label images part by part.

    Args:
        prepared: the run.
        refs: the pending images.
        ledger: counts what is done.
        token: of the run lock.

    Raises:
        UserError: the weights could not be loaded, or a part could not be written.
    """
    rows_per_part = prepared.config.rows_per_part or _ROWS_PER_PART
    with single_process.running(prepared.config.out):
        stages = Stages(prepared, ledger, available_cores())
        writer = PartWriter.of(prepared, token, ledger)
        pending = iter(refs)
        while batch := list(islice(pending, rows_per_part)):
            writer.write(stages.label(batch))
