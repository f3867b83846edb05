"""The commands of the command line: name, one line of help, configuration and module."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import cast

from segray.pipelines.config.schema import Config


@dataclass(frozen=True)
class Command:
    """A command by name, so that listing the commands imports none of them.

    Attributes:
        summary: one line of help.
        module: the module with its `run(config)`.
        config_module: the module with its configuration.
        config_class: the name of its configuration's class.
    """

    summary: str
    module: str
    config_module: str
    config_class: str

    def config(self) -> type[Config]:
        """The model that its configuration is checked against."""
        return cast("type[Config]", getattr(import_module(self.config_module), self.config_class))


def _command(name: str, summary: str, module: str = "", leaf: str = "") -> tuple[str, Command]:
    """`picture-book` is commands/picture_book.py and the class `PictureBookConfig` in config/commands/."""
    leaf = leaf or name.replace("-", "_")
    return name, Command(
        summary,
        module or f"segray.pipelines.commands.{leaf}",
        f"segray.pipelines.config.commands.{leaf}",
        f"{name.title().replace('-', '')}Config",
    )


COMMANDS = dict(
    [
        _command("demo", "Draw a picture book, label it, train: minutes on a CPU."),
        _command("annotate", "Label a folder of images with SAM and CLIP."),
        _command("relabel", "Relabel with new classes, prompts or threshold, without SAM."),
        _command("calibrate", "Correct a label set's names by a few masks, without images."),
        _command("train", "Train a network on a few masks and many zero-shot labels."),
        _command("tune", "Search the best values of train's keys for each split.", "segray.tuning.search"),
        _command("masks", "Convert masks of any kind to PNG, and show them."),
        _command("predict", "Label images with a trained network: masks and overlays."),
        _command("serve", "Look at labels in the browser and correct them."),
        _command("export", "Write labels for other tools, or a network as ONNX."),
        _command("suggest", "Choose the images to label next: a list, CVAT, Label Studio."),
        _command("import", "Take masks of other tools as corrections.", leaf="import_masks"),
        _command("verify", "Check that a label set is complete, and repair it."),
        _command("evaluate", "Compare labels or predictions with true masks: IoU and mIoU."),
        _command("report", "Make report.html of a label set or a training run."),
        _command("picture-book", "Draw picture-book scenes with exact masks."),
        _command("samples", "Write a few real photographs to try annotation on."),
        _command("plan", "Estimate time, price and size of annotate from a few images."),
        _command("doctor", "Check versions, GPUs, cluster, storage, authentication."),
        _command("submit", "Run a command on a cluster as a job, and follow it."),
    ]
)
"""Every command, in the order in which a user meets them."""
