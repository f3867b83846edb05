"""`segray import`: masks that people made with other tools, into a label set as corrections."""

from __future__ import annotations

from dataclasses import dataclass

from segray.models.label_space import LabelSpace
from segray.pipelines.config.commands.import_masks import ImportConfig
from segray.pipelines.corrections import CorrectedStore, CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.importing.corrections import imported
from segray.pipelines.importing.read import read_masks
from segray.pipelines.io import storage
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.printing import echo
from segray.pipelines.understood import classes_line, line, show


@dataclass(frozen=True)
class ImportResult:
    """What `import` took; as text, what the command prints.

    Attributes:
        labels: folder or URI of the label set.
        changed: images whose mask differs from the label.
        unchanged: images whose mask does not.
        good: images that are marked as good now.
        pixels: pixels that have another class now.
        corrections: that were written.
    """

    labels: str
    changed: int
    unchanged: int
    good: int
    pixels: int
    corrections: int

    def __str__(self) -> str:
        images = (
            f"{self.changed + self.unchanged}: {self.changed} changed, {self.unchanged} as the labels are"
        )
        left = self.changed + self.unchanged - self.good
        hint = f"; {left} are not marked (good=all marks all)" if left else ""
        return "\n".join(
            [
                line("images", images),
                line("pixels", f"{self.pixels:,} have another class"),
                line("good", f"{self.good} marked as hand-made masks{hint}"),
                line("wrote", f"{self.corrections} corrections in {storage.display(self.labels)}"),
            ]
        )


def run(config: ImportConfig) -> None:
    """Import and print a summary.

    Raises:
        UserError: as `execute` raises.
    """
    echo(execute(config))


def execute(config: ImportConfig) -> ImportResult:
    """Take all masks of a file or folder, or none.

    Raises:
        UserError: none of the formats; or a mask of another size, class, image or label set.
    """
    store = CorrectedStore(config.labels)
    space = LabelSpace(tuple(store.provenance["classes"]), ())
    show([classes_line(space.classes)])
    ids = [image_id for image_id, status, _ in store.statuses() if status == "ok"]
    masks = read_masks(config.source, config.format, MaskOptions.of_keys(config, config.image), space, ids)
    if not masks:
        raise UserError(
            f"from={storage.display(config.source)}: no image in it has a mask; CVAT and COCO: shapes, YOLO: "
            "polygons, Label Studio: submitted annotations"
        )
    found = imported(store, masks, config.good, config.who)
    CorrectionLog(config.labels).append(found.corrections)
    return ImportResult(
        config.labels, found.changed, found.unchanged, found.good, found.pixels, len(found.corrections)
    )
