"""From many images and few labels to a semantic segmentation model.

Each function is a command of the command line; keyword arguments are its configuration keys, nested by
dictionaries (`sam={"model": "vit_b"}`) or dotted (`**{"sam.model": "vit_b"}`). Importing this package loads
neither torch nor Ray.
"""

from __future__ import annotations

from segray.api import (
    annotate,
    calibrate,
    evaluate,
    export,
    import_masks,
    predict,
    relabel,
    serve,
    suggest,
    train,
    tune,
)
from segray.label_set import LabelSet, Sample
from segray.network import Network, load_network
from segray.pipelines.errors import UserError

__all__ = [
    "LabelSet",
    "Network",
    "Sample",
    "UserError",
    "annotate",
    "calibrate",
    "evaluate",
    "export",
    "import_masks",
    "load_network",
    "predict",
    "relabel",
    "serve",
    "suggest",
    "train",
    "tune",
]
