"""What the page refuses: other sites, wrong tokens, corrections that do not fit. Nothing is stored then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from segray.pipelines.review.app import MAX_BODY, build_app
from segray.pipelines.review.review import Review
from segray.pipelines.review.security import Door
from tests.pipelines.review.conftest import DOOR
from tests.pipelines.review.test_page import correct

NAME = {"image": 0, "kind": "name", "segments": [0], "class": "house"}


@pytest.fixture
def stranger(review: Review) -> TestClient:
    """A client without the token."""
    return TestClient(build_app(review, DOOR), base_url="http://127.0.0.1:8765")


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/set", "/api/images/0/photo.jpg"])
def test_nothing_is_shown_without_the_token(stranger: TestClient, path: str) -> None:
    assert stranger.get(path).status_code == 401
    assert stranger.get(path, params={"token": "secre"}).status_code == 401
    assert stranger.get(path, headers={"cookie": "segray-8765=wrong"}).status_code == 401


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_has(stranger: TestClient) -> None:
    cookie = stranger.get("/", params={"token": "secret"}).headers["set-cookie"]

    assert cookie == "segray-8765=secret; HttpOnly; SameSite=Strict; Path=/"
    assert stranger.get("/api/set").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1:9999", "127.0.0.1.evil:8765", ""]
)
def test_another_name_of_this_server_is_refused(page: TestClient, host: str) -> None:
    assert page.get("/api/set", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8765", "http://127.0.0.1:1"]
)
def test_requests_of_other_sites_are_refused(page: TestClient, labels: Path, origin: str) -> None:
    fingerprint = page.get("/api/set").json()["fingerprint"]

    answer = page.post(
        "/api/corrections", json={"set": fingerprint, "corrections": [NAME]}, headers={"origin": origin}
    )

    assert answer.status_code == 403
    assert page.get("/api/set", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert not (labels / "corrections").exists()


def test_a_request_that_changes_something_must_say_where_it_comes_from(stranger: TestClient) -> None:
    stranger.get("/", params={"token": "secret"})

    assert stranger.post("/api/corrections", json={}).status_code == 403


def test_every_answer_has_the_headers_that_keep_scripts_out(page: TestClient) -> None:
    for path in ("/", "/api/set", "/api/images/0/photo.jpg", "/nothing"):
        headers = page.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": 3}, "corrections[1]: image: 3 (allowed: 0 to 2)"),
        ({"image": True}, "corrections[1]: image: True (allowed: 0 to 2)"),
        ({"kind": "drop"}, "corrections[1]: kind: 'drop'"),
        ({"segments": [7]}, "corrections[1]: segments: 7 is none of the image's 2"),
        ({"segments": "0"}, "corrections[1]: segments: not a list"),
        ({"class": "car"}, "corrections[1]: class: 'car' is none of the label set's"),
        ({"who": "bob"}, "corrections[1]: not a mapping with"),
        ({"kind": "paint", "mask": "04"}, "corrections[1]: run lengths"),
        ({"kind": "paint", "mask": "..%2F"}, "corrections[1]: run lengths"),
        ({"kind": "undo", "target": "../../x"}, "corrections[1]: target"),
    ],
)
def test_a_correction_that_does_not_fit_is_refused_with_all_others(
    page: TestClient, labels: Path, change: dict[str, Any], reason: str
) -> None:
    answer = correct(page, NAME, {**NAME, **change})

    assert answer.status_code == 422
    assert answer.json()["error"].startswith(reason)
    assert not (labels / "corrections").exists()


@pytest.mark.parametrize(
    "target", ["20200101T000000000000-00000000", "99980101T000000000000-00000000", "zzzz"]
)
def test_an_undo_of_what_is_not_there_is_refused(page: TestClient, labels: Path, target: str) -> None:
    answer = correct(page, {"image": 0, "kind": "undo", "target": target})

    assert answer.status_code == 422
    assert answer.json()["error"] == f"a.png has no correction {target} to undo"
    assert not (labels / "corrections").exists()
    (key,) = correct(page, NAME).json()["keys"]
    assert key.startswith("2")


@pytest.mark.parametrize("number", ["²", "-1", "1" * 5000, ""])
def test_a_place_of_what_is_no_number_is_refused(page: TestClient, number: str) -> None:
    answer = page.get("/api/images", params={"find": number})

    assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (422, "find")


def test_bodies_are_bounded_and_must_be_json(page: TestClient) -> None:
    kind = {"content-type": "application/json"}

    assert page.post("/api/corrections", content=b"x" * (MAX_BODY + 1), headers=kind).status_code == 413
    assert page.post("/api/corrections", content=b"[" * 100_000, headers=kind).status_code == 400
    assert (
        page.post("/api/corrections", content=b"{}", headers={"content-type": "text/plain"}).status_code
        == 415
    )


def test_corrections_for_another_label_set_are_refused(page: TestClient) -> None:
    assert page.post("/api/corrections", json={"set": "other", "corrections": [NAME]}).status_code == 409


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/api/images/a.png/photo.jpg", "/api/images/99"],
)
def test_no_path_leaves_what_is_listed(page: TestClient, path: str) -> None:
    assert page.get(path).status_code in (404, 405)


def test_an_image_that_has_changed_is_not_shown(page: TestClient, labels: Path) -> None:
    (labels.parent / "images" / "a.png").write_bytes(b"other")

    answer = page.get("/api/images/0/photo.jpg")

    assert answer.status_code == 404
    assert answer.json() == {"error": "image has changed since it was labelled"}


@pytest.mark.parametrize(
    ("host", "authority", "own"),
    [
        ("127.0.0.1", "localhost:8765", True),
        ("127.0.0.1", "10.0.0.5:8765", False),
        ("0.0.0.0", "10.0.0.5:8765", True),
        ("0.0.0.0", "evil.example:8765", False),
        ("::1", "[::1]:8765", True),
        ("127.0.0.1", "localhost:8765@evil.example", False),
    ],
)
def test_names_that_lead_here(host: str, authority: str, own: bool) -> None:
    assert Door(host, 8765, "secret").is_own_name(authority) is own
