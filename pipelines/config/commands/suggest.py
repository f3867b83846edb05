"""The configuration of `segray suggest`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segray.pipelines.config.commands.export import ExportImageConfig
from segray.pipelines.config.schema import Config, Folder, Text


class SuggestConfig(Config):
    """Choose the images to label next: the least certain, different from each other, of all classes."""

    labels: Folder
    """The label set; images with corrections are left out."""
    n: int = Field(default=50, ge=1, le=100_000)
    """How many images."""
    format: Literal["list", "cvat", "labelstudio"] = "list"
    """A list of image_ids, or the task of a tool with the labels as they are, as `export` writes it."""
    out: Text | None = None
    """The file of the list, or a new folder for the task; null: print the list."""
    images: Literal["copy", "link", "none"] = "copy"
    """Image files of a task: copies, symlinks to where the manifest says they are, or none."""
    image: ExportImageConfig = ExportImageConfig()
    """Where the images may be."""
