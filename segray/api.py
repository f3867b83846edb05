"""The commands as functions: configuration keys in, a typed result out.

Progress is written to stderr, as on the command line. A Ray that is already initialised is used and stays up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    from segray.pipelines.annotation.run_summary import LabelSetResult
    from segray.pipelines.commands.calibrate import CalibrateResult
    from segray.pipelines.commands.export import ExportResult
    from segray.pipelines.commands.import_masks import ImportResult
    from segray.pipelines.commands.suggest import SuggestResult
    from segray.pipelines.config.schema import Config
    from segray.pipelines.exporting.checkpoints.export import CheckpointResult
    from segray.pipelines.prediction.result import PredictResult
    from segray.pipelines.reporting.evaluation import Evaluation
    from segray.pipelines.review.server import ReviewPage
    from segray.pipelines.training.run_folder import TrainResult

    C = TypeVar("C", bound=Config)

Source = str | PathLike[str] | None


@dataclass(frozen=True)
class SplitResult:
    """The best trial of one split of a search.

    Attributes:
        split: value of `data.labelled`.
        miou: validation mIoU of the best trial, in [0, 1]; None if none finished.
        default_miou: the same of the default values; None if that trial did not finish.
        values: the searched keys of the best trial.
    """

    split: str
    miou: float | None
    default_miou: float | None
    values: dict[str, str]


@dataclass(frozen=True)
class TuneResult:
    """The result of a search.

    Attributes:
        out: folder or URI of the search, with `best-SPLIT.yaml`, results.csv and report.html.
        splits: the best of each split.
    """

    out: str
    splits: tuple[SplitResult, ...]


def annotate(config: Source = None, /, **keys: object) -> LabelSetResult:
    """Label images with SAM and CLIP, as `segray annotate`; existing labels in `out` are kept.

    Args:
        config: a YAML file.
        keys: configuration keys, such as images, classes and out; they win over the file.

    Raises:
        UserError: bad input, another configuration or another run in `out`, or too many bad images.
    """
    from segray.pipelines.commands import annotate as command
    from segray.pipelines.config.commands.annotate import AnnotateConfig

    loaded = _load(AnnotateConfig, config, keys)
    result = command.execute(loaded)
    command.check_bad_images(loaded, result)
    return result


def relabel(config: Source = None, /, **keys: object) -> LabelSetResult:
    """Apply new classes, prompts or thresholds to a label set, as `segray relabel`.

    Args:
        config: a YAML file.
        keys: configuration keys, such as labels, classes and out.

    Raises:
        UserError: bad input, or a label set without embeddings.
    """
    from segray.pipelines.commands import relabel as command
    from segray.pipelines.config.commands.relabel import RelabelConfig

    return command.execute(_load(RelabelConfig, config, keys))


def calibrate(config: Source = None, /, **keys: object) -> CalibrateResult:
    """Correct the names of a label set by a few masks, as `segray calibrate`.

    Args:
        config: a YAML file.
        keys: configuration keys, such as labels, masks and out.

    Raises:
        UserError: bad input, masks that do not fit the label set, or a label set without embeddings.
    """
    from segray.pipelines.commands import calibrate as command
    from segray.pipelines.config.commands.calibrate import CalibrateConfig

    return command.execute(_load(CalibrateConfig, config, keys))


def train(config: Source = None, /, **keys: object) -> TrainResult:
    """Train a network, as `segray train`; a run that stopped is resumed.

    Args:
        config: a YAML file.
        keys: configuration keys, such as out, data and network.

    Raises:
        UserError: bad data or options, another run in `out`, or a loss that diverged.
    """
    from segray.pipelines.commands import train as command
    from segray.pipelines.config.commands.train import TrainConfig

    return command.execute(_load(TrainConfig, config, keys))


def tune(config: Source = None, /, **keys: object) -> TuneResult:
    """Search values of the keys of `train`, as `segray tune`; a search that stopped is resumed.

    Args:
        config: a YAML file.
        keys: configuration keys, such as out, data, space and search.

    Raises:
        UserError: bad data or options, another search in `out`, or no trial that finished.
    """
    from segray.pipelines.config.commands.tune import TuneConfig
    from segray.pipelines.io import storage
    from segray.tuning import search

    loaded = _load(TuneConfig, config, keys)
    search.run(loaded)
    results = json.loads(storage.read_bytes(storage.join(loaded.out, "results.json")))
    splits = tuple(
        SplitResult(split["split"], split["miou"], split["default_miou"], split["values"] or {})
        for split in results["splits"]
    )
    return TuneResult(loaded.out, splits)


def predict(config: Source = None, /, **keys: object) -> PredictResult:
    """Label images with a trained network, as `segray predict`.

    Args:
        config: a YAML file.
        keys: configuration keys, such as checkpoint, images and out.

    Raises:
        UserError: bad input, another output in `out`, or not one good image.
    """
    from segray.pipelines.commands import predict as command
    from segray.pipelines.config.commands.predict import PredictConfig

    result = command.execute(_load(PredictConfig, config, keys))
    command.check_bad_images(result)
    return result


@overload
def export(  # type: ignore[overload-overlap]
    config: Source = None, /, *, checkpoint: str | PathLike[str], **keys: object
) -> CheckpointResult: ...
@overload
def export(config: Source = None, /, **keys: object) -> ExportResult: ...
def export(config: Source = None, /, **keys: object) -> ExportResult | CheckpointResult:
    """Write a label set as the files of another tool, or a network as one file, as `segray export`.

    Args:
        config: a YAML file.
        keys: configuration keys, such as labels or checkpoint, out and format.

    Raises:
        UserError: bad input, two images with one name, another output in `out`, or not one good image.
    """
    from segray.pipelines.commands import export as command
    from segray.pipelines.config.commands.export import ExportConfig

    result = command.execute(_load(ExportConfig, config, keys))
    if isinstance(result, command.ExportResult):
        command.check_bad_images(result)
    return result


def serve(config: Source = None, /, **keys: object) -> ReviewPage:
    """Open a label set for review in the browser, as `segray serve`, and return at once.

    The page is open until `stop()`, the end of a `with` block, or the end of the process.

    Args:
        config: a YAML file.
        keys: configuration keys, such as out, masks and port.

    Raises:
        UserError: bad input, a port that is in use, or the extra `review` is missing.
    """
    from segray.pipelines.commands import serve as command
    from segray.pipelines.config.commands.serve import ServeConfig

    return command.execute(_load(ServeConfig, config, keys))


def suggest(config: Source = None, /, **keys: object) -> SuggestResult:
    """Choose the images to label next, as `segray suggest`.

    Args:
        config: a YAML file.
        keys: configuration keys, such as labels, n and format.

    Raises:
        UserError: bad input, or no image without corrections.
    """
    from segray.pipelines.commands import suggest as command
    from segray.pipelines.config.commands.suggest import SuggestConfig

    return command.execute(_load(SuggestConfig, config, keys))


def import_masks(config: Source = None, /, **keys: object) -> ImportResult:
    """Take masks that people made with other tools into a label set, as `segray import`.

    Args:
        config: a YAML file.
        keys: configuration keys, such as labels and `**{"from": PATH}`.

    Raises:
        UserError: bad input; nothing is taken then.
    """
    from segray.pipelines.commands import import_masks as command
    from segray.pipelines.config.commands.import_masks import ImportConfig

    return command.execute(_load(ImportConfig, config, keys))


def evaluate(config: Source = None, /, **keys: object) -> Evaluation:
    """Compare labels or predictions with true masks, as `segray evaluate`.

    Args:
        config: a YAML file.
        keys: configuration keys, such as labels and masks.

    Raises:
        UserError: nothing to compare, or masks that are missing or do not fit.
    """
    from segray.pipelines.commands import evaluate as command
    from segray.pipelines.config.commands.evaluate import EvaluateConfig

    result, _ = command.execute(_load(EvaluateConfig, config, keys))
    return result


def _load(model: type[C], source: Source, keys: dict[str, object]) -> C:
    from segray.pipelines.config.loading import load_values
    from segray.pipelines.config.paths import absolute, joins_cluster
    from segray.pipelines.engine.cluster import has_joined

    config = load_values(model, None if source is None else fspath(source), keys)
    # Processes of a cluster, and of a Ray that is already initialised, may have another working directory.
    return absolute(config) if joins_cluster(config) or has_joined() else config
