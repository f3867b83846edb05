"""A folder that `datasets.load_dataset` opens: Parquet files with images and masks, and a card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

import pyarrow as pa
import yaml

from segray.pipelines.exporting.base import TRAIN, Encoded, Entries, File, Format, Sample, class_names
from segray.pipelines.exporting.markdown import table
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.part_files import encode_part

_NAMES = {"train": "train", "val": "validation"}
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ROWS = 64


class HuggingFace(Format):
    """data/SPLIT-*.parquet, one file for each part of the label set and split, README.md, id2label.json."""

    in_shards = True

    def image_path(self, image_id: str, split: str) -> str:  # noqa: ARG002  the formats' signature
        """The id: an image is a cell of its row."""
        return image_id

    def encode(self, sample: Sample) -> Encoded:
        """A row."""
        label = {"bytes": encode_gray_png(sample.label), "path": None}
        image = {"image": {"bytes": sample.image, "path": sample.image_id}} if sample.image else {}
        return Encoded(row={**image, "label": label, "image_id": sample.image_id})

    def shard(self, part: str, split: str, rows: list[Mapping[str, object]]) -> tuple[str, bytes]:
        """A Parquet file, under the name of the part."""
        name = part.removeprefix("part-")
        data = encode_part(pa.Table.from_pylist(rows, self._schema()), row_group_size=_ROWS)
        return f"data/{_NAMES[split]}-{name}", data

    def finish(self, entries: Entries) -> Iterator[File]:
        """The card, and the names of the ids twice: as text, and as transformers reads them."""
        ids = {str(i): name for i, name in enumerate(self.target.classes)}
        yield class_names(self.target)
        yield "id2label.json", [json.dumps(ids, indent=1).encode(), b"\n"]
        yield "README.md", [self._card(entries).encode()]

    def _schema(self) -> pa.Schema:
        images = ["image", "label"] if self.target.images else ["label"]
        features: dict[str, object] = {name: {"_type": "Image"} for name in images}
        features["image_id"] = {"dtype": "string", "_type": "Value"}
        fields = [*((name, _IMAGE) for name in images), ("image_id", pa.string())]
        return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})

    def _shares(self, entries: Entries) -> Iterator[tuple[str, str, str]]:
        """Id, name and share of the pixels of each class, over all splits."""
        pixels: Counter[int] = Counter()
        for entry in chain.from_iterable(map(entries, self.target.splits)):
            pixels.update(dict(zip(entry["class_ids"], entry["class_pixels"], strict=True)))
        total = max(1, pixels.total())
        for i, name in enumerate(self.target.classes):
            yield str(i), name, f"{pixels[i] / total:.2%}"

    def _card(self, entries: Entries) -> str:
        files = [{"split": _NAMES[s], "path": f"data/{_NAMES[s]}-*.parquet"} for s in self.target.splits]
        head = {
            "task_categories": ["image-segmentation"],
            "annotations_creators": ["machine-generated"],
            "configs": [{"config_name": "default", "data_files": files}],
        }
        counts = ", ".join(f"{self.target.counts[s]} {_NAMES[s]}" for s in self.target.splits)
        return _CARD.format(
            head=yaml.safe_dump(head, sort_keys=False),
            counts=counts,
            ignored=self.target.ignore_index,
            split=_NAMES[self.target.splits[0] if self.target.splits else TRAIN],
            names=table(("id", "class", "pixels"), self._shares(entries)),
            facts=table(("made with", ""), self.target.facts),
        )


_CARD = """---
{head}---

# Semantic segmentation labels

Images: {counts}. Written by `segray export format=huggingface`.

```python
import datasets

rows = datasets.load_dataset("PATH", split="{split}")
rows[0]["label"]  # a PIL image of class ids; {ignored} is ignored
```

The labels were made by a program, not by people: check them before you measure anything with them.

{names}

{facts}
"""
