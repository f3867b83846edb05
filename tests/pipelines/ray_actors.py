"""Which actors a run has left to the Ray that it used."""

from __future__ import annotations

import time

PATIENCE_S = 60.0
"""An actor that was told to end takes a moment; one that was not stays as long as its driver."""
OF_A_RUN = (
    *("Ledger", "LogCollector", "TrialCoordinator", "MapWorker"),
    *("TrainController", "RayTrainWorker", "PreemptionWatcher", "SynchronizationActor"),
)


def left_over() -> list[str]:
    """Classes of the actors of runs that still live, after a while."""
    from ray._private.state import actors

    deadline = time.monotonic() + PATIENCE_S
    while alive := sorted(
        name
        for actor in actors().values()
        if actor["State"] != "DEAD" and (name := actor["ActorClassName"]).startswith(OF_A_RUN)
    ):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return alive
