"""The page's requests: each is checked, answered by `Review`, and refused in one line."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.printing import visible
from segray.pipelines.review import answers, drawing
from segray.pipelines.review.actions import parse_actions
from segray.pipelines.review.browse import MAX_PAGE, parse_query, select, whole_number
from segray.pipelines.review.naming import parse_names
from segray.pipelines.review.review import Review
from segray.pipelines.review.security import Door, Guarded

MAX_BODY = 8 << 20
"""Bytes of a request."""
MAX_ALIKE = 200
_STATIC = Path(__file__).parent / "static"
_KEPT = {"cache-control": "private, max-age=86400, immutable"}
_JSON = "application/json"


def build_app(review: Review, door: Door) -> Guarded:
    """The server of a label set.

    Args:
        review: the label set.
        door: who may talk to it.
    """
    api = _Api(review)
    routes = [
        Route("/", _static("index.html")),
        *(Route(f"/static/{path.name}", _static(path.name)) for path in sorted(_STATIC.iterdir())),
        Route("/api/set", api.about),
        Route("/api/progress", api.progress),
        Route("/api/images", api.images),
        Route("/api/images/{image:int}", api.image),
        Route("/api/images/{image:int}/photo.jpg", api.photo),
        Route("/api/images/{image:int}/overlay.png", api.overlay),
        Route("/api/images/{image:int}/{map:str}.png", api.map),
        Route("/api/segments/{row:int}/crop.jpg", api.crop),
        Route("/api/segments/{row:int}/alike", api.alike),
        Route("/api/next", api.next, methods=["POST"]),
        Route("/api/corrections", api.correct, methods=["POST"]),
        Route("/api/naming", api.naming),
        Route("/api/naming", api.rename, methods=["POST"]),
    ]
    handlers: dict[Any, Callable[..., Response]] = {
        UserError: _refused,
        ImageProblem: _no_image,
        HTTPException: _http_error,
        Exception: _unexpected,
    }
    return Guarded(Starlette(routes=routes, exception_handlers=handlers), door)


class _Api:
    def __init__(self, review: Review) -> None:
        self._review = review

    def about(self, _: Request) -> Response:
        self._review.corrections.refresh()
        return JSONResponse({**answers.about(self._review), "counts": answers.class_counts(self._review)})

    def progress(self, _: Request) -> Response:
        return JSONResponse(answers.progress(self._review))

    def images(self, request: Request) -> Response:
        review, values = self._review, request.query_params
        review.corrections.refresh()
        query = parse_query(values, len(review.classes))
        found = select(review.index.images, review.marks, query)
        offset = whole_number("offset", values.get("offset", "0"), 1 << 29)
        limit = whole_number("limit", values.get("limit", "100"), MAX_PAGE)
        place = _place(found, whole_number("find", values["find"], 1 << 29)) if "find" in values else None
        tiles = [answers.tile(review, image) for image in found[offset : offset + limit].tolist()]
        return JSONResponse({"total": len(found), "offset": offset, "images": tiles, "place": place})

    def image(self, request: Request) -> Response:
        self._review.corrections.refresh()
        names, similar = _names(request), request.query_params.get("similar", "")
        return JSONResponse(answers.detail(self._review, self._number(request), names, similar or names))

    def photo(self, request: Request) -> Response:
        longest = drawing.THUMBNAIL if request.query_params.get("size") == "thumbnail" else None
        return _kept(self._review.photo(self._number(request), longest), "image/jpeg")

    def overlay(self, request: Request) -> Response:
        return _kept(self._review.overlay(self._number(request), _names(request)), "image/png")

    def map(self, request: Request) -> Response:
        image, kind = self._number(request), request.path_params["map"]
        if kind == "truth":
            truth = self._review.true_label(image)
            if truth is None:
                raise HTTPException(404, "no mask of this image")
            return _kept(drawing.id_map(truth), "image/png")
        if kind not in ("label", "confidence"):
            raise HTTPException(404, "no such map")
        corrected = self._review.corrected(image, _names(request))
        values = corrected.label if kind == "label" else corrected.confidence
        return _kept(drawing.id_map(values), "image/png")

    def crop(self, request: Request) -> Response:
        return _kept(self._review.crop(self._row(request)), "image/jpeg")

    def alike(self, request: Request) -> Response:
        values, classes = request.query_params, self._review.classes
        class_id = whole_number("class", values.get("class", ""), len(classes) - 1)
        count = whole_number("count", values.get("count", "60"), MAX_ALIKE, 1)
        return JSONResponse(answers.found_alike(self._review, self._row(request), class_id, count))

    def next(self, _: Request) -> Response:
        return JSONResponse(answers.next_segment(self._review))

    async def correct(self, request: Request) -> Response:
        document = await _document(request)
        return await run_in_threadpool(self._correct, document)

    def naming(self, _: Request) -> Response:
        names = self._review.naming.stored
        return JSONResponse(
            {
                "key": self._review.naming.add(names),
                "background": names.background,
                "threshold": names.threshold,
                "aliases": self._review.naming.aliases,
            }
        )

    async def rename(self, request: Request) -> Response:
        names = parse_names(await _document(request))
        naming = self._review.naming
        key = await run_in_threadpool(naming.add, names)
        counts, share = await run_in_threadpool(naming.changed, key)
        return JSONResponse({"key": key, "segments": counts.tolist(), "changed": share})

    def _correct(self, document: dict[str, Any]) -> Response:
        review = self._review
        if document.get("set") != review.fingerprint:
            raise HTTPException(409, "the label set is another one now; reload the page")
        wanted = parse_actions(document, review.index, review.classes)
        keys = review.correct(wanted)
        touched = list(dict.fromkeys(one.image for one in wanted))
        return JSONResponse({"keys": keys, "images": [answers.tile(review, image) for image in touched]})

    def _number(self, request: Request) -> int:
        image: int = request.path_params["image"]
        if image >= len(self._review.index.images):
            raise HTTPException(404, "no such image")
        return image

    def _row(self, request: Request) -> int:
        row: int = request.path_params["row"]
        if row >= len(self._review.index.segments):
            raise HTTPException(404, "no such segment")
        return row


def _names(request: Request) -> str:
    return request.query_params.get("names", "")


def _place(numbers: NDArray[np.int64], wanted: int) -> int | None:
    """Where an image is in a list; None if it is not there."""
    places = np.flatnonzero(numbers == wanted)
    return int(places[0]) if places.size else None


async def _document(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        HTTPException: 415 another type, 413 too large, 400 no JSON object.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != _JSON:
        raise HTTPException(415, f"content-type: allowed is {_JSON}")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"more than {MAX_BODY >> 20} MiB")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise HTTPException(400, "not a JSON object")
    return document


def _static(name: str) -> Callable[[Request], Response]:
    """The answer with a file of the page; the files are known, so that no name becomes a path."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    kind = "text/javascript" if name.endswith(".js") else kind
    return partial(_file, _STATIC / name, kind)


def _file(path: Path, kind: str, request: Request) -> Response:  # noqa: ARG001  Starlette's signature
    return Response(path.read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})


def _kept(data: bytes, kind: str) -> Response:
    """An answer that browsers keep: its address has the version of what it shows."""
    return Response(data, media_type=kind, headers=_KEPT)


def _error(status: int, why: str) -> Response:
    return JSONResponse({"error": visible(why)}, status)


def _refused(request: Request, error: UserError) -> Response:  # noqa: ARG001
    return _error(500 if error.exit_code == 1 else 422, str(error))


def _no_image(request: Request, problem: ImageProblem) -> Response:  # noqa: ARG001
    return _error(404, problem.reason)


def _http_error(request: Request, error: HTTPException) -> Response:  # noqa: ARG001
    return _error(error.status_code, error.detail)


def _unexpected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return _error(500, f"unexpected {type(error).__name__}")
