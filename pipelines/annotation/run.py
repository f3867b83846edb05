"""Label the pending images of a run: a few in this process, many on a cluster."""

from __future__ import annotations

from dataclasses import replace

from segray.pipelines.annotation import local, probe
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.engine import cluster, ledger, ray_data, single_process
from segray.pipelines.engine.ledger import Ledger, RemoteLedger, Tally
from segray.pipelines.engine.pools import batch_sizes
from segray.pipelines.engine.progress import Progress
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.errors import UserError
from segray.pipelines.io import pending, storage
from segray.pipelines.io.sources import sources_of
from segray.pipelines.printing import echo


def label_pending(prepared: Prepared, token: str, n_pending: int, before: int) -> Tally:
    """Label the images on the list of pending ones.

    Args:
        prepared: the run.
        token: of the run lock.
        n_pending: how many images are pending.
        before: how many images earlier runs have labelled.

    Returns:
        What the run has done.

    Raises:
        UserError: what ends a run, such as a full disk, or weights that changed since they were checked.
    """
    if local.suits(prepared.config, n_pending):
        return _label_here(prepared, token, n_pending, before)
    single_process.tell_of_death(prepared.config.out)
    tally = _label_on_cluster(prepared, token, n_pending, before)
    single_process.forget_death(prepared.config.out)
    return tally


def _label_here(prepared: Prepared, token: str, n_pending: int, before: int) -> Tally:
    run_ledger = Ledger()
    refs = pending.read_pending(prepared.config.out)
    try:
        with Progress(run_ledger, n_pending, before):
            local.label(prepared, refs, run_ledger, token)
    except KeyboardInterrupt:
        print_resume_hint(prepared, run_ledger)
        raise
    return replace(run_ledger.tally(), workers=dict.fromkeys(prepared.config.model_stages, 1))


def _label_on_cluster(prepared: Prepared, token: str, n_pending: int, before: int) -> Tally:
    config = prepared.config
    kinds = {pool.accelerator for pool in config.model_stages.values() if pool.accelerator}
    with cluster.session(config.address, config.grow, kinds) as resources:
        # Ray Data takes long to import, and a run in this process does not need it.
        from segray.pipelines.annotation import graph

        require_shared(config.out, [*sources_of(config.images), *config.image.roots])
        ray_data.configure()
        pools = probe.choose(prepared, resources, n_pending, pending.read_pending(config.out))
        models = config.model_stages.values()
        sizes = batch_sizes(n_pending, pools.plans, models, resources.cpus, config.rows_per_part)
        with ledger.started() as run_ledger:
            try:
                with Progress(run_ledger, n_pending, before):
                    graph.label(prepared, pools, sizes, run_ledger, token)
            except KeyboardInterrupt:
                print_resume_hint(prepared, run_ledger)
                raise
            except Exception as error:
                raise _as_user_error(error) from error
            workers = {name: plan.max_workers for name, plan in pools.plans.items()}
            return replace(run_ledger.tally(), workers=workers, probe=pools.probe)


def print_resume_hint(prepared: Prepared, run_ledger: Ledger | RemoteLedger) -> None:
    """Print what an interrupted run keeps, and how to resume it."""
    done = "finished images"
    try:
        done = f"{sum(run_ledger.tally().rows.values())} images"
    finally:
        # A second Ctrl-C comes while a busy ledger is asked.
        echo(
            f"\nstopped; {done} of this run are safe in {storage.display(prepared.config.out)}; "
            "run the same command to resume",
            err=True,
        )


def _as_user_error(error: Exception) -> Exception:
    """Unwrap a worker's UserError from Ray's exceptions; anything else stays as it is."""
    from ray.exceptions import RayError

    cause: BaseException | None = error
    while cause is not None:
        # Ray's wrapper is a UserError too, but its text is the worker's traceback.
        if isinstance(cause, UserError) and not isinstance(cause, RayError):
            # Ray Data adds lines of advice to the text.
            return UserError(str(cause).splitlines()[0], exit_code=cause.exit_code)
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error
