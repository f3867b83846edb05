from __future__ import annotations

import random

import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io.image_ids import check_image_id
from segray.pipelines.io.names import Names
from segray.pipelines.training.data.splits import SampleFinder


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("train/a/1.png", "train/a/1.png"),
        ("/data/train/a/1.png", "train/a/1.png"),
        ("b/1.png", "train/b/1.png"),
        ("2.png", "2.png"),
        ("x/2.png", "2.png"),
        ("1.png", None),
        ("c/1.png", None),
        ("3.png", None),
        ("", None),
    ],
)
def test_the_name_that_shares_most_last_parts_is_found(path: str, found: str | None) -> None:
    assert Names(["train/a/1.png", "train/b/1.png", "val/b/1.jpg", "2.png"]).find_path(path) == found


def test_the_one_that_is_found_is_the_only_one_of_all() -> None:
    rng = random.Random(0)
    paths = ["/".join(rng.choice("ab") for _ in range(rng.randint(1, 5))) for _ in range(200)]
    names = sorted(set(paths[:20]))

    def shared(name: str, path: str) -> int:
        ends = [path.split("/")[-n:] for n in range(6)]
        return max(n for n in range(6) if n == 0 or (len(ends[n]) == n and name.split("/")[-n:] == ends[n]))

    for path in paths:
        counts = {name: shared(name, path) for name in names}
        most = [name for name, count in counts.items() if count == max(counts.values()) > 0]
        wanted = path if path in names else most[0] if len(most) == 1 else None
        assert Names(names).find_path(path) == wanted


def test_many_names_with_one_last_part_are_not_compared_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of annotations that names each took a time with the square of their number."""
    names = Names(f"{i}/image.png" for i in range(1000))
    compared: list[object] = []

    def shared(*both: object) -> int:
        compared.append(both)
        return 1

    monkeypatch.setattr("segray.pipelines.io.names._shared", shared)
    for i in range(1000):
        names.find_path(f"other/{i}/image.png")
    assert len(compared) <= 4000


@pytest.mark.parametrize("name", ["a/" * 101 + "x.png", "a" * 8193])
def test_an_id_of_any_length_or_depth_is_refused(name: str) -> None:
    """Of a name of 60 kB in a zip all its beginnings took 1.1 GB."""
    with pytest.raises(UserError, match=r"x: image_id .* has \d+ characters in \d+ parts; allowed"):
        check_image_id(name, "x")
    check_image_id(name[-199:], "x")


@pytest.mark.parametrize(
    ("name", "size"), [("a/" * 1_000_000, "2000000 characters"), ("a/" * 100 + "x", "101")]
)
def test_a_name_of_any_length_in_a_split_file_is_not_looked_for(name: str, size: str) -> None:
    with pytest.raises(UserError, match=rf"^a name of .*{size}.* \(allowed: at most 8192, 100\)$"):
        SampleFinder(["x.png"]).find(name)
