"""Servers of images that send the request on, and addresses that lead out of the folder that was named."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from PIL import Image

from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.received import check_received_uri
from segray.pipelines.io.sources import image_roots, list_images, read_allowed
from tests.faults.images import encode

DATA = encode(Image.new("RGB", (16, 16)), "PNG")


@contextmanager
def serving(target: str = "") -> Iterator[tuple[str, list[str]]]:
    """HOST:PORT of a web server, which sends /images/go.png to a target, and the paths that it saw."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            if self.path == "/images/go.png":
                self.send_response(302)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(DATA)

        do_HEAD = do_GET  # noqa: N815 (names of http.server)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", seen
        server.shutdown()


def fetched(folder: Path, address: str) -> bytes:
    """The image that a list names, of a host that the user named."""
    (folder / "list.txt").write_text(f"http://{address}/images/go.png\n")
    roots = [f"http://{address}/images"]
    (ref,) = list_images(str(folder / "list.txt"), roots)
    return read_allowed(ref.uri, image_roots(str(folder / "list.txt"), roots))


@pytest.mark.parametrize(
    "target",
    [
        "http://{other}/secret",
        "//{other}/secret",
        "http://localhost:1/x",
        "https://example.invalid/x.png",
        "file:///etc/passwd",
        "ftp://{other}/x",
        "data:,x",
    ],
)
def test_a_server_of_images_chooses_no_other_host(tmp_path: Path, target: str) -> None:
    """Such as one inside the user's network."""
    with ExitStack() as stack:
        other, seen = stack.enter_context(serving())
        address, _ = stack.enter_context(serving(target.format(other=other)))
        with pytest.raises(ImageProblem, match=r"redirected to .*, which was not named"):
            fetched(tmp_path, address)
        assert not seen


def test_a_redirect_to_the_same_server_is_followed(tmp_path: Path) -> None:
    with serving("/images/real.png") as (address, seen):
        assert fetched(tmp_path, address) == DATA
    assert "/images/real.png" in seen


@pytest.mark.parametrize("path", ["..;/x.png", "..;a=b/x.png", ".;/x.png", "%2e%2e;/x.png", "a\\..\\x.png"])
def test_a_path_that_some_servers_take_for_the_folder_above_is_refused(path: str) -> None:
    root = "https://images.example/photos"
    with pytest.raises(UserError, match=r"holds '\.' or '\.\.'"):
        check_received_uri(f"{root}/{path}", [root])
    assert check_received_uri(f"{root}/a;b/c.png", [root]) == f"{root}/a;b/c.png"
