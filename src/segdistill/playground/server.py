"""The server behind `segdistill.play`: which addresses it answers, to whom, and how it ends.

Gradio's own ``launch`` was tried with the attacks of tests/playground (Gradio 6.31). It refuses files outside of its
folder, but it answers under any host's name (DNS rebinding), takes uploads that another site's page sends, lets other
pages frame it, lists and calls its functions under /gradio_api/info, openapi.json and call, takes requests of any size,
and downloads a public address that a request names as a file. Hence the `Gate` below.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

from segdistill.errors import UserError

PORTS_TRIED = 100
"""Ports that are looked at, one after the other, before there is none free."""

LARGEST_REQUEST = 2**20
"""Bytes of what the page asks for, uploads aside; it sends file names and choices."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""Told to browsers: the page loads nothing from anywhere else, and no other page may frame it."""

_FILES = "/gradio_api/file="
_ASKED = "/gradio_api/queue/join"
_ANSWERED = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/.+"
    r"|/gradio_api/(upload|upload_progress|queue/(join|data)|heartbeat/\w+|cancel|reset|file=.+)"
)
"""All that the page itself uses. Gradio answers more: it fetches other servers' files, and lists its functions."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gate:
    """Lets only the page's own requests through to it.

    Refused are: addresses that the page does not use; files outside of its folder; on a loopback address, requests
    under another name than this machine's (a page elsewhere whose name was made to mean this machine); requests that
    another site's page sends; and requests to work on a file that was not dropped here.

    Args:
        app: what answers the rest.
        folder: the one whose files may be read.
        is_local: whether the server is meant for this machine alone.
    """

    def __init__(self, app: App, folder: Path, is_local: bool) -> None:
        self._app = app
        self._folder = folder.resolve()
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is None and scope["path"] == _ASKED:
            body = await _body(receive)
            if body is None:
                refusal = (413, "too large")
            elif (checked := self._checked(body)) is None:
                refusal = (403, "not a file of this page")
            else:
                receive = _again(checked, receive)
        if refusal is not None:
            await _refuse(send, *refusal)
            return

        async def answered(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self._app(scope, receive, answered)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self._is_local and not is_loopback(_name(host)):
            return 403, "this page is for this machine alone"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "another site's page may not ask"
        path = scope["path"]
        if _ANSWERED.fullmatch(path) is None:
            return 404, "no such page"
        if path.startswith(_FILES) and not self._is_own(path.removeprefix(_FILES)):
            return 403, "not a file of this page"
        return None

    def _is_own(self, name: str) -> bool:
        try:
            file = Path(name).resolve()
        except (OSError, ValueError):
            return False
        return Path(name).is_absolute() and file.is_relative_to(self._folder)

    def _checked(self, body: bytes) -> bytes | None:
        """A request as it was understood; None where it is none, or names a file that is not the page's.

        Gradio would copy any file that a request names, or fetch it, to where the page may read it: it checks that only
        of pages that it serves itself.
        """
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return None
        values = [asked]
        while values:
            value = values.pop()
            if isinstance(value, dict):
                if "path" in value and not (isinstance(value["path"], str) and self._is_own(value["path"])):
                    return None
                values += value.values()
            elif isinstance(value, list):
                values += value
        # Written anew: with a key given twice, another reader might have taken the other one.
        return json.dumps(asked).encode()


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, seen from itself alone.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org")]
        [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the first free port from ``port`` on.

    Raises:
        UserError: no such address on this machine, no leave for that port, or none free.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}; expected a number from 0 to 65535, 0 for any that is free")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(f"host '{host}' is no address; expected one of this machine, such as 127.0.0.1") from None
    for number in range(port, min(port + PORTS_TRIED, 65536)):
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address[0], number))
            found.listen()
        except PermissionError:
            found.close()
            raise UserError(f"port {number} is not free to you; expected one from 1024 on") from None
        except OSError as error:
            found.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"host {host} is no address of this machine; expected 127.0.0.1 or 0.0.0.0") from None
        else:
            return found
    raise UserError(f"no port is free from {port} to {number}; choose another --port")


def serve(app: App, listening: socket.socket, *, before_end: Callable[[], None]) -> None:
    """Answers until a signal; in a thread other than the main one, until the process ends.

    Args:
        app: what answers.
        listening: see `listen`.
        before_end: called before open connections are waited for.

    Raises:
        KeyboardInterrupt: after Ctrl-C; and what a handler of SIGTERM raises.
    """
    # Whatever still runs after that, such as a long prediction, is left alone.
    config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=2)
    _Server(config, before_end).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends streams that would go on for as long as a browser shows the page."""

    def __init__(self, config: uvicorn.Config, before_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._before_end = before_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, afterwards."""
        self._before_end()
        await asyncio.sleep(0)
        await super().shutdown(sockets)


def _name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    found = re.fullmatch(r"\[(.*)\](:\d+)?|([^:]*)(:\d+)?", host)
    return "" if found is None else found[1] or found[3] or ""


async def _body(receive: Receive) -> bytes | None:
    """The whole of a request; None for one that is too large."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if sum(map(len, parts)) > LARGEST_REQUEST:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A request that was read, to be read again."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return again


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
