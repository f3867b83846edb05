"""Who may talk to the page: a token, and no other site through the browser of who has it.

The server listens on this machine alone unless `host=` says otherwise. Even then other people of the machine
could reach it, and pages of other sites through the browser (cross-site requests, DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_READING = {"GET", "HEAD"}
_OWN = {"same-origin", "none"}
_NAME = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Of every answer."""


@dataclass(frozen=True)
class Door:
    """Where the server listens, and what opens it.

    Attributes:
        host: the address of `host=`.
        port: of TCP.
        token: whoever has it may read and correct.
    """

    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie(self) -> str:
        """Name of the cookie: browsers give those of one port to all others."""
        return f"segray-{self.port}"

    @property
    def is_wide(self) -> bool:
        """Whether other machines reach it."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    @property
    def address(self) -> str:
        """What a person opens."""
        return f"http://{self._shown_host()}:{self.port}/?token={self.token}"

    def _shown_host(self) -> str:
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"[{host}]" if ":" in host else host

    def is_own_name(self, authority: str) -> bool:
        """Whether a Host header names this server: a name of someone else's leads here by DNS rebinding."""
        found = _NAME.fullmatch(authority)
        if found is None or authority.removeprefix(found["host"]).removeprefix(":") not in (
            "",
            str(self.port),
        ):
            return False
        name = found["host"].lower()
        return name in (*_LOOPBACK, self.host.lower(), f"[{self.host.lower()}]") or (
            self.is_wide and (name == socket.gethostname().lower() or _is_address(name))
        )

    def opens(self, token: str | None) -> bool:
        """Whether a token is the right one; takes the same time for all wrong ones."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Guarded:
    """ASGI middleware: answers only who has the token, and only pages of its own.

    The token comes with the first address, and from then on in a cookie that no other site can send, or as
    `Authorization: Bearer TOKEN` from programs.

    Args:
        app: what is guarded.
        door: where it listens.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        brought = self._door.opens(_query_token(scope))

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
                if brought and refusal is None:
                    headers.append("set-cookie", self._cookie())
            await send(message)

        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._door.is_own_name(headers.get("host", "")):
            return _refuse(421, "this server has another name; open the address that segray serve printed")
        if not self._is_from_own_page(scope["method"], headers):
            return _refuse(403, "a request of another site")
        if not any(
            map(self._door.opens, (_query_token(scope), _cookie(headers, self._door), _bearer(headers)))
        ):
            return _refuse(401, "no token; open the address that segray serve printed, with its token")
        return None

    def _is_from_own_page(self, method: str, headers: Headers) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        is_page = headers.get("sec-fetch-mode") == "navigate" and method in _READING
        if site not in _OWN and not is_page:
            return False
        if origin is not None:
            return origin == f"http://{headers.get('host')}"
        return method in _READING or headers.get("authorization") is not None

    def _cookie(self) -> str:
        return f"{self._door.cookie}={self._door.token}; HttpOnly; SameSite=Strict; Path=/"


def _refuse(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)


def _query_token(scope: Scope) -> str | None:
    query = parse_qs(scope["query_string"].decode("latin-1"))
    return next(iter(query.get("token", [])), None)


def _cookie(headers: Headers, door: Door) -> str | None:
    pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
    return next((value for name, _, value in pairs if name == door.cookie), None)


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None
