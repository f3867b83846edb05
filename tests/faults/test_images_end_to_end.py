"""A folder from the wild, every kind of bad image among good ones, through the whole path."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from segray.pipelines.commands import annotate
from segray.pipelines.commands.verify import verify
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import LabelStore
from tests.faults.images import write_bad_images
from tests.pipelines.plain_runs import config_of


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_image_of_the_wild_is_out_once_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "wild", tmp_path / "labels"
    folder.mkdir()
    expected = write_bad_images(folder)
    overrides = ("sam.points_per_side=2", "sam.workers=1", "clip.workers=1", "max_bad=0.1")
    config = config_of(folder, out, *overrides)
    bad = {name: status for name, (status, _) in expected.items() if status != "ok"}
    with pytest.raises(
        UserError, match=rf"{len(bad)} of {len(expected)} images are bad, max_bad=0\.1"
    ) as caught:
        annotate.run(config)
    assert caught.value.exit_code == 3
    assert verify(str(out), expected).problems == []
    rows = list(LabelStore(str(out)).rows(["image_id", "status", "error", "sha256", "label", "n_segments"]))
    assert sorted(row["image_id"] for row in rows) == sorted(expected)
    outcomes = {row["image_id"]: (row["status"], row["error"] or "") for row in rows}
    wrong = {
        name: (outcomes[name], wanted)
        for name, wanted in expected.items()
        if outcomes[name][0] != wanted[0] or not outcomes[name][1].startswith(wanted[1])
    }
    assert wrong == {}
    assert all((row["label"]["bytes"] is not None) == (row["status"] == "ok") for row in rows if row["label"])
    run = LabelStore(str(out)).run()
    assert run is not None
    assert run["rows"] == Counter(status for status, _ in expected.values())
    assert run["this_run"]["restarts"] == 0
    err = capsys.readouterr().err
    assert err.count("  error   ") + err.count("  skipped ") == 20
    assert f"  ... and {len(bad) - 20} more bad images" in err
    # The same command again reads no image and prints the same.
    before = {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()}
    with pytest.raises(UserError, match="images are bad"):
        annotate.run(config)
    assert {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()} == before
