"""What the demo's server lets in: its own page's requests, and nothing that the page never asks."""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

NAMES = ("127.0.0.1", "localhost", "[::1]")  # of this machine; another name may be rebound to it
# routes of Gradio that the page has no use for
CLOSED = re.compile(
    r"/(?:upload|upload_progress|openapi\.json|docs|redoc|dev/reload|vibe-.*|undo-vibe-.*"
    r"|process_recording|monitoring.*|component_server|deep_link|run-history.*|runs|proxy=.*)/?$"
)
# Gradio's page has scripts and styles of its own in the page
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
ADDED = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Gate:
    """An ASGI application around another that answers on one port of this machine."""

    def __init__(self, app: App, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status, why = self._refusal(scope)
        if status and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif status:
            body = json.dumps({"detail": why}).encode()
            told = [(b"content-type", b"application/json"), (b"connection", b"close")]
            length = [(b"content-length", str(len(body)).encode())]
            await send(
                {"type": "http.response.start", "status": status, "headers": told + length + ADDED}
            )
            await send({"type": "http.response.body", "body": body})
        else:
            await self._app(scope, receive, _adding(send))

    def _refusal(self, scope: Message) -> tuple[int, str]:
        """(status, why), or (0, "") for what may pass."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0].decode("latin-1").lower() not in self._hosts:
            return 421, f"This page answers to {', '.join(sorted(self._hosts))} alone."
        for name, value in scope["headers"]:
            if name == b"origin" and value.decode("latin-1").lower() not in self._origins:
                return 403, "This page answers its own requests alone."
        if scope["type"] == "websocket" or CLOSED.search(scope["path"]):
            return 404, "There is no such page here."
        return 0, ""


def _adding(send: Send) -> Send:
    """Sends answers with the headers that every one has."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in ADDED}
            kept = [(n, v) for n, v in message.get("headers", []) if n.lower() not in own]
            message["headers"] = kept + ADDED
        await send(message)

    return sent
