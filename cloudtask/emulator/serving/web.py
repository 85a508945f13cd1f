"""Answers HTTP: REST, status page, health, reset, and keys that verify tokens."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from cloudtask.emulator.calls import CALLS, answer, run_task
from cloudtask.emulator.protocol import errors, v2
from cloudtask.emulator.protocol.errors import ApiError
from cloudtask.emulator.protocol.names import is_loopback
from cloudtask.emulator.serving.engine import Engine
from cloudtask.emulator.serving.page import render
from cloudtask.emulator.serving.rest import Rest, refusal

_logger = logging.getLogger("cloudtask.emulator")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY = 160 << 20
"""Bytes of a request: a batch of 100 tasks of 1 MiB each, as base64."""

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_CACHE = {"Cache-Control": "no-store"}
# A restarted emulator may have another key. Clients that honor this notice soon.
_CERTS_CACHE = {"Cache-Control": "public, max-age=5"}
_PAGE_HEADERS = {
    **_NO_CACHE,
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_CLAIMS = ["aud", "azp", "email", "email_verified", "exp", "iat", "iss", "sub"]
_QUEUE_ACTIONS = {"pause": "PauseQueue", "resume": "ResumeQueue", "purge": "PurgeQueue"}


def application(engine: Engine) -> web.Application:
    """The aiohttp application that shows and controls an engine."""
    side, rest = HttpSide(engine), Rest(engine)
    app = web.Application(middlewares=[side.guard], client_max_size=MAX_BODY)
    app.add_routes(
        [
            web.get("/", side.page),
            web.get("/healthz", side.health),
            web.get("/.well-known/openid-configuration", side.discovery),
            web.get("/oauth2/v3/certs", side.jwks),
            web.get("/oauth2/v1/certs", side.pem_certs),
            web.post("/reset", side.reset),
            web.post("/queues/{action}", side.act_on_queue),
            web.post("/tasks/run", side.run_task),
            web.post("/tasks/delete", side.delete_task),
            web.route("*", "/{version:v2|v2beta3|v2beta2}/{call:.*}", rest.answer),
        ]
    )
    return app


class HttpSide:
    """The handlers, around one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keep web pages of other sites from reading or controlling the emulator.

        A page of another site can make a browser post here; the Origin shows that. With
        a name that resolves to 127.0.0.1 it could also read; the Host shows that.
        """
        try:
            self._check_origin(request)
            if (request.content_length or 0) > MAX_BODY:
                raise web.HTTPRequestEntityTooLarge(
                    MAX_BODY, 0, text=f"At most {MAX_BODY:,} bytes.\n"
                )
            return await handler(request)
        except web.HTTPException:
            raise
        except ApiError as error:
            return refusal(error)
        except Exception:
            _logger.exception("%s %s failed.", request.method, request.path)
            return refusal(errors.internal())

    def _check_origin(self, request: web.Request) -> None:
        match = _HOST.fullmatch(request.headers.get("Host", ""))
        if match is None:
            raise web.HTTPBadRequest(text="The Host header names no host.\n")
        if not self._engine.settings.allow_remote and not is_loopback(match["host"]):
            raise web.HTTPForbidden(
                text=f"Not for the host {match['host']!r}: the emulator was started "
                "without --allow-remote.\n"
            )
        origin = request.headers.get("Origin")
        is_foreign = origin is not None and _origin_host(origin) != match[0]
        fetch_site = request.headers.get("Sec-Fetch-Site", "none")
        if request.method not in _SAFE_METHODS and (
            is_foreign or fetch_site not in ("none", "same-origin")
        ):
            raise web.HTTPForbidden(text="Not from another site.\n")

    async def page(self, request: web.Request) -> web.Response:
        with self._engine.state.lock:
            text = render(self._engine, request.query.get("q", "").strip())
        return web.Response(text=text, content_type="text/html", headers=_PAGE_HEADERS)

    async def health(self, request: web.Request) -> web.Response:
        with self._engine.state.lock:
            queues = list(self._engine.state.queues.values())
        return web.json_response(
            {
                "status": "ok",
                "grpc": self._engine.address,
                "queues": len(queues),
                "tasks": sum(len(queue.tasks) for queue in queues),
            },
            headers=_NO_CACHE,
        )

    async def discovery(self, request: web.Request) -> web.Response:
        """OpenID Connect Discovery 1.0."""
        here = self._engine.http_address
        return web.json_response(
            {
                "issuer": self._engine.issuer,
                "jwks_uri": f"{here}/oauth2/v3/certs",
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "claims_supported": _CLAIMS,
            }
        )

    async def jwks(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"keys": [self._engine.tokens.key.jwk()]}, headers=_CERTS_CACHE
        )

    async def pem_certs(self, request: web.Request) -> web.Response:
        """Key id to PEM, the form that google-auth reads without PyJWT."""
        key = self._engine.tokens.key
        return web.json_response({key.id: key.public_pem}, headers=_CERTS_CACHE)

    async def reset(self, request: web.Request) -> web.Response:
        await self._engine.reset()
        return await _back(request)

    async def act_on_queue(self, request: web.Request) -> web.Response:
        call = _QUEUE_ACTIONS.get(request.match_info["action"])
        if call is None:
            raise web.HTTPNotFound
        message = v2.PauseQueueRequest(name=await _name_in(request))
        answer(self._engine.state, v2, CALLS[call], message)
        return await _back(request)

    async def run_task(self, request: web.Request) -> web.Response:
        name = await _name_in(request)
        with self._engine.state.lock:
            run_task(self._engine.state, v2.RunTaskRequest(name=name))
        return await _back(request)

    async def delete_task(self, request: web.Request) -> web.Response:
        message = v2.DeleteTaskRequest(name=await _name_in(request))
        answer(self._engine.state, v2, CALLS["DeleteTask"], message)
        return await _back(request)


async def _name_in(request: web.Request) -> str:
    """The field "name" of a form."""
    try:
        form = await request.post()
        return str(form.get("name", "")).encode().decode()
    except (AssertionError, LookupError, ValueError):
        raise web.HTTPBadRequest(text="The form can't be read.\n") from None


def _origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


async def _back(request: web.Request) -> web.Response:
    """Redirect a browser to the page; answer a program with JSON."""
    if "text/html" in request.headers.get("Accept", ""):
        raise web.HTTPSeeOther("/")
    return web.json_response({"status": "ok"})
