"""The formats of `segray export`, by name."""

from __future__ import annotations

from segray.pipelines.exporting.base import Format
from segray.pipelines.exporting.cityscapes import Cityscapes
from segray.pipelines.exporting.coco import Coco
from segray.pipelines.exporting.coco_panoptic import CocoPanoptic
from segray.pipelines.exporting.cvat import Cvat
from segray.pipelines.exporting.fiftyone import FiftyOne
from segray.pipelines.exporting.huggingface import HuggingFace
from segray.pipelines.exporting.label_studio import LabelStudio
from segray.pipelines.exporting.png import Png
from segray.pipelines.exporting.voc import Voc
from segray.pipelines.exporting.webdataset import WebDataset
from segray.pipelines.exporting.yolo_seg import YoloSeg

FORMATS: dict[str, type[Format]] = {
    "png": Png,
    "voc": Voc,
    "cityscapes": Cityscapes,
    "coco": Coco,
    "coco-panoptic": CocoPanoptic,
    "yolo-seg": YoloSeg,
    "huggingface": HuggingFace,
    "webdataset": WebDataset,
    "fiftyone": FiftyOne,
    "cvat": Cvat,
    "labelstudio": LabelStudio,
}
"""A new format is a module with a class, a line here, and its name in `ExportConfig.format`."""
