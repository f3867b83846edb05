"""The pools of a run. With `auto=true`, their sizes follow from a short probe run on the cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from segray.pipelines.annotation.in_process import Stages, timed
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.engine import pools
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.ray_data import NO_PROGRESS_S
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.printing import echo

IMAGES = 8
"""Images that a probe labels; their labels are discarded."""
_CANDIDATES = 4 * IMAGES
"""Images that it reads at most to find that many good ones."""
WORTH = 8 * IMAGES
"""With fewer images a probe costs more than it saves: it loads both models once more."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pools:
    """The pools by stage, and the seconds per image by stage if a probe measured them.

    `shared`: both stages are one, and their plan is the same.
    """

    plans: dict[str, PoolPlan]
    probe: dict[str, float] = field(default_factory=dict)
    shared: bool = False


def choose(prepared: Prepared, resources: Resources, n_pending: int, pending: Iterable[ImageRef]) -> Pools:
    """The pools of a run; prints a line about the probe if there was one.

    A probe that fails costs its time and nothing else: the run gets the usual sizes.

    Args:
        prepared: the run.
        resources: what the cluster has.
        n_pending: how many images are to be labelled.
        pending: these images; only the first few are read.

    Raises:
        UserError: more is asked for than the cluster has.
    """
    config = prepared.config
    if len(config.model_stages) == 1:
        ((name, pool),) = config.model_stages.items()
        per_node = name == "labeller"
        return Pools({name: pools.plan_alone(pool, resources, n_pending, per_node=per_node)})
    usual = _usual(config, resources, n_pending)
    if not _wanted(config, n_pending) or (usual.shared and resources.gpus < 2):
        return usual
    try:
        seconds = _on_cluster(prepared, list(islice(pending, _CANDIDATES)), resources.gpus >= 1)
    except Exception as error:  # noqa: BLE001  whatever is wrong, the run itself reports it or does without a probe
        echo(f"probe: failed ({_reason(error)}); workers as without auto", err=True)
        return usual
    chosen = replace(_sized(config, resources, n_pending, seconds, usual), probe=seconds)
    echo(probe_line(seconds, chosen), err=True)
    return chosen


def _usual(config: AnnotateConfig, resources: Resources, n_pending: int) -> Pools:
    """One actor with both models on each GPU; without GPUs, or with pools sized explicitly, two pools."""
    if plan := pools.shared(config.sam, config.clip, resources, n_pending):
        return Pools({"sam": plan, "clip": plan}, shared=True)
    sizes = pools.usual(config.sam, config.clip, resources)
    return Pools(_plans(config, resources, pools.at_most(sizes, n_pending)))


def _wanted(config: AnnotateConfig, n_pending: int) -> bool:
    pinned = config.sam.accelerator or config.clip.accelerator
    if not config.auto or pinned or (config.sam.workers and config.clip.workers):
        return False
    if n_pending < WORTH:
        _log.debug("auto: no probe for fewer than %d images", WORTH)
        return False
    return True


def _sized(
    config: AnnotateConfig, resources: Resources, n_pending: int, seconds: Mapping[str, float], usual: Pools
) -> Pools:
    """The usual pools if explicit settings of one leave too little for the other, or if both share GPUs."""
    sizes = pools.at_most(pools.balanced(seconds, resources), n_pending)
    if usual.shared and sizes[0].num_gpus < 1:
        return usual
    try:
        return Pools(_plans(config, resources, sizes))
    except UserError:
        return usual


def _plans(
    config: AnnotateConfig, resources: Resources, sizes: tuple[pools.Size, pools.Size]
) -> dict[str, PoolPlan]:
    sam, clip = pools.plan(config.sam, config.clip, resources, sizes)
    return {"sam": sam, "clip": clip}


def _on_cluster(prepared: Prepared, refs: Sequence[ImageRef], gpu: bool) -> dict[str, float]:
    """`measure` in an actor, where a worker would run; its process ends afterwards and frees the GPU.

    An actor, as a task cannot be ended safely: one that is cancelled just when it ends aborts the driver.
    """
    import ray

    actor = ray.remote(num_cpus=0 if gpu else 1, num_gpus=1 if gpu else 0)(_Probe).remote()
    try:
        with Waiting("the probe, which labels a few images to size the pools"):
            return ray.get(actor.measure.remote(prepared, refs), timeout=NO_PROGRESS_S)
    finally:
        ray.kill(actor)


class _Probe:
    def measure(self, prepared: Prepared, refs: Sequence[ImageRef]) -> dict[str, float]:
        return measure(prepared, refs)


def measure(prepared: Prepared, refs: Sequence[ImageRef]) -> dict[str, float]:
    """Label the first images that can be read, and discard the labels.

    Returns:
        Seconds per image by stage, on one device that does nothing else.

    Raises:
        UserError: none of them can be labelled, or the weights could not be loaded.
    """
    stages = Stages(prepared)
    good = list(islice((ref for ref in refs if stages.read([ref])["status"][0].as_py() == "ok"), IMAGES))
    rows, seconds = timed(stages, good) if good else ([], {})
    if not any(row["status"] == "ok" for row in rows):
        raise UserError(f"none of the first {len(refs)} images could be labelled")
    return {name: total / len(rows) for name, total in seconds.items()}


def probe_line(seconds: Mapping[str, float], chosen: Pools) -> str:
    """`probe: read 0.01 s, sam 0.26 s, clip 0.03 s, encode 0.01 s per image; 7 SAM and 1 CLIP workers`."""
    sam, clip = chosen.plans["sam"], chosen.plans["clip"]
    stages = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
    if chosen.shared:
        return f"probe: {stages} per image; {sam.workers} workers with both models"
    line = f"probe: {stages} per image; {sam.workers} SAM and {clip.workers} CLIP workers"
    if sam.num_gpus or clip.num_gpus:
        line += f" with {sam.num_gpus:.2g} and {clip.num_gpus:.2g} GPUs each"
    return line


def _reason(error: Exception) -> str:
    """One line. Ray keeps what a task raised as the cause of its own error, whose text is a traceback."""
    cause = getattr(error, "cause", None) or error
    message = (str(cause).strip().splitlines() or [""])[0]
    return message if isinstance(cause, UserError) else f"{type(cause).__name__}: {message}"
