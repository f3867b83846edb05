"""Where a web server may send a request for an image: to itself alone."""

from __future__ import annotations

from functools import cache
from typing import Any


class RedirectRefusedError(PermissionError):
    """A server sent the request to another host, or away from https; its text says where."""


@cache
def client_options() -> dict[str, Any]:
    """Keyword arguments of aiohttp's session: redirects to another host, or from https to http, are refused.

    The user names the hosts that images come from. A server that forwards to any other, such as one inside
    the user's network, would choose for them.

    Raises:
        ImportError: aiohttp is not installed.
    """
    from aiohttp import TraceConfig

    trace: Any = TraceConfig()
    trace.on_request_redirect.append(_check)
    return {"trace_configs": [trace]}


async def _check(_session: object, _context: object, redirect: Any) -> None:
    from yarl import URL

    headers = redirect.response.headers
    wanted = redirect.url.join(URL(headers.get("Location") or headers.get("URI") or ""))
    ports_differ = wanted.scheme == redirect.url.scheme and wanted.port != redirect.url.port
    if wanted.host != redirect.url.host or ports_differ or wanted.scheme not in _after(redirect.url.scheme):
        place = f"{wanted.scheme}://{wanted.host}"[:200]
        raise RedirectRefusedError(f"redirected to {place}, which was not named; name that address itself")


def _after(scheme: str) -> tuple[str, ...]:
    return ("https",) if scheme == "https" else ("http", "https")
