"""The page and the spread of a correction from Python."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

import segray
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.review.similar import similar_segments


def _threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("segray-")]


def test_a_page_answers_in_a_thread_until_it_is_stopped(labels: Path) -> None:
    before = _threads()
    with segray.serve(out=labels, port=0) as page:
        base, _, token = page.url.partition("/?token=")
        headers = {"authorization": f"Bearer {token}"}
        assert httpx2.get(f"{base}/api/set", headers=headers).json()["images"] == 3
        assert f'href="{page.url}"' in page._repr_html_()
        assert str(page) == page.url
        port = int(base.rpartition(":")[2])
        with pytest.raises(UserError, match=f"cannot listen on host=127.0.0.1 port={port}"):
            segray.serve(out=labels, port=port)
    page.stop()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(base)
    for thread in threading.enumerate():
        if thread.name.startswith("segray-") and thread.name not in before:
            thread.join()
    segray.serve(out=labels, port=port).stop()


def test_a_port_is_given_back_where_there_is_no_label_set(tmp_path: Path, labels: Path) -> None:
    with segray.serve(out=labels, port=0) as page:
        port = int(page.url.partition("/?")[0].rpartition(":")[2])
    for _ in range(2):
        with pytest.raises(UserError, match="no label set here"):
            segray.serve(out=tmp_path / "none", port=port)


def test_similar_segments_are_those_that_the_page_offers(labels: Path) -> None:
    log = CorrectionLog(labels)
    named = log.make("a.png", "name", segments=[0], class_name="house")
    log.append([named])

    found = similar_segments(labels, named)

    assert [(one.image, one.segment, one.class_name) for one in found[:2]] == [
        ("b.png", 0, "tree"),
        ("sub/c.png", 0, "tree"),
    ]
    assert [one.marked for one in found[:2]] == [True, True]
    assert found[0].distance <= found[1].distance
    with pytest.raises(UserError, match="a correction of kind 'good' gives segments no class"):
        similar_segments(labels, log.make("a.png", "good"))
    with pytest.raises(UserError, match=r"similar segments: a\.png has no segment 7"):
        similar_segments(labels, replace(named, segments=(7,)))
