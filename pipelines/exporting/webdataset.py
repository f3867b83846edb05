"""WebDataset's shards: tar files with the files of each image under one key."""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

from segray.pipelines.exporting.base import Encoded, Entries, File, Format, Sample, class_names
from segray.pipelines.io.label_png import encode_gray_png


class WebDataset(Format):
    """SPLIT-*.tar, one for each part of the label set and split, with KEY.jpg, KEY.seg.png and KEY.json."""

    in_shards = True

    def image_path(self, image_id: str, split: str) -> str:  # noqa: ARG002  the formats' signature
        """The id: an image is a file of its shard."""
        return image_id

    def encode(self, sample: Sample) -> Encoded:
        """The files of a key by their endings."""
        about = json.dumps({"image_id": sample.image_id}).encode()
        ending = posixpath.splitext(sample.image_id)[1].lower().lstrip(".") or "bin"
        image = {ending: sample.image} if sample.image else {}
        files = {**image, "seg.png": encode_gray_png(sample.label), "json": about}
        return Encoded(row={"key": key_of(sample.image_id), "files": files})

    def shard(self, part: str, split: str, rows: list[Mapping[str, Any]]) -> tuple[str, bytes]:
        """A tar file, under the name of the part; without times and owners, so that it is always the same."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for row in rows:
                for ending, data in row["files"].items():
                    member = tarfile.TarInfo(f"{row['key']}.{ending}")
                    member.size, member.mode = len(data), 0o644
                    archive.addfile(member, io.BytesIO(data))
        name = part.removeprefix("part-").removesuffix(".parquet")
        return f"{split}-{name}.tar", buffer.getvalue()

    def finish(self, entries: Entries) -> Iterator[File]:  # noqa: ARG002  the formats' signature
        """The names of the ids."""
        yield class_names(self.target)


def key_of(image_id: str) -> str:
    """The id without dots in its last part, where WebDataset's endings begin; different for every id."""
    folder, name = posixpath.split(image_id)
    digest = hashlib.sha256(image_id.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return posixpath.join(folder, f"{name.replace('.', '_')}-{digest}")
