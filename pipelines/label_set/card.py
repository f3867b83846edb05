"""README.md of a label set: with it, `datasets.load_dataset` opens the folder, and the hub shows it."""

from __future__ import annotations

from segray.pipelines.io import storage

CARD = "README.md"

# Names of parts alone: what else a folder of a label set holds is another kind of table.
_TEXT = """---
task_categories:
- image-segmentation
annotations_creators:
- machine-generated
configs:
- config_name: labels
  default: true
  data_files: labels/part-*.parquet
- config_name: segments
  data_files: segments/part-*.parquet
---

# A label set of segray

```python
import datasets

labels = datasets.load_dataset("PATH", split="train")  # one row per image, good or bad
segments = datasets.load_dataset("PATH", "segments", split="train")  # one row per segment
```

`label` is an image of class ids, `confidence` one of values from 0 to 255; both are null unless `status` is
ok. The names of the ids are the features of `class_ids`. The labels were made by a program, not by people:
check them before you measure anything with them.
"""


def write_card(root: str) -> None:
    """Write README.md; one that is there stays as it is, for it may be the user's.

    The text depends on nothing: an interrupted run leaves the same bytes as an undisturbed one.

    Raises:
        UserError: it cannot be written.
    """
    path = storage.join(root, CARD)
    if not storage.exists(path):
        storage.write_atomic(path, _TEXT.encode())
