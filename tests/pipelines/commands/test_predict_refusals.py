"""A prediction that is refused while its images are listed leaves the folder free."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from segray.models.segmenters.inference import Inference
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.sources import list_images
from segray.pipelines.prediction.job import Files, Job
from segray.pipelines.prediction.output import begin, made_with
from segray.pipelines.prediction.rows import ImageRows


def test_a_folder_is_free_after_two_sources_with_one_id_were_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "1.png")
    out = str(tmp_path / "out")
    files = Files(overlays=False)
    job = Job("run", "0" * 64, ("background", "cat"), out, files, Inference(), ImageOptions())
    with pytest.raises(UserError, match=r"image_id '1\.png' is in "):
        begin(job, {"images": "both"}, list_images((f"{tmp_path}/a", f"{tmp_path}/b")), ImageRows(out))
    assert made_with(out) is None
    assert begin(job, {"images": "one"}, list_images(f"{tmp_path}/a"), ImageRows(out)) == (1, 1)
    assert made_with(out) == {"images": "one"}
