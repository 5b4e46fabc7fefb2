"""The service as a FastAPI application: routes, health, metrics, OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api import answers
from rehydrate.api.admin import admin_router
from rehydrate.api.answers import DirectFastAPI, Route, problem_of, request_id
from rehydrate.api.auth.access import Access, bearer
from rehydrate.api.auth.admin_guard import AdminGuard
from rehydrate.api.conversations import LIMITS, Limits, router
from rehydrate.api.inspection import inspection_router
from rehydrate.api.openapi import SECURITY_SCHEMES, drop_annotations, problems
from rehydrate.api.schemas import Readiness
from rehydrate.api.service import Service
from rehydrate.api.static_files import pages_router
from rehydrate.api.telemetry import CONTENT_TYPE, AccessLogMiddleware, Metrics
from rehydrate.api.webhooks import WebhookSenders, events_router
from rehydrate.core.json import dump
from rehydrate.errors import NotConfigured, RehydrateError
from rehydrate.limits import AnswerBytes
from rehydrate.maintenance.inspector import ServiceInspector
from rehydrate.replay.admin import ReplayAdmin

_SENT_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-Id",
    "X-Requested-With",
    "User-Agent",
    "traceparent",
    "tracestate",
)
_SHOWN_HEADERS = ("ETag", "Location", "Retry-After", "WWW-Authenticate", "X-Request-Id")


def create_app(
    service: Service,
    access: Access,
    *,
    cors_origins: Collection[str] = (),
    cors_headers: Collection[str] = (),
    metrics: Metrics | None = None,
    limits: Limits = LIMITS,
    announcers: WebhookSenders | None = None,
    inspector: ServiceInspector | None = None,
    admin: ReplayAdmin | None = None,
) -> FastAPI:
    """Return the application; its lifespan opens and closes *service* and *access*.

    Args:
        service: the use cases behind the routes of conversations.
        access: authorizes requests.
        cors_origins: origins whose pages may call the API; ``*``: any.
        cors_headers: request headers that they may send, in addition to the usual ones.
        metrics: the metrics of ``/metrics``; pass the instance that the use cases count in.
        limits: limits of size and concurrency.
        announcers: authenticates webhooks; None: the app has no webhook route.
        inspector: the use cases of the inspector; None: the app has neither the page nor its routes.
        admin: the use cases of admins; None: the app has no admin routes for replays and audit.

    Raises:
        NotConfigured: no key is configured, so that no request could be authorized.
    """
    if not access.configured:
        raise NotConfigured(
            "no keys are configured: set ABLY_API_KEY or REHYDRATE_ABLY_KEYS (readers),"
            " REHYDRATE_SERVICE_KEYS (backends) or REHYDRATE_ADMIN_KEYS (admins)"
        )
    metrics = metrics or Metrics()
    sizes = AnswerBytes(limits.answer_bytes)
    app = _bare(access)
    conversations = router(
        service,
        authorize=access.authorizer(service.readers.channel_of),
        authorize_backend=lambda request: _backend(access, request),
        metrics=metrics,
        limits=limits,
        sizes=sizes,
    )
    app.include_router(conversations)
    if announcers is not None:
        app.include_router(events_router(service, announcers))
    guard = AdminGuard(access, admin)
    if inspector is not None:
        app.include_router(inspection_router(inspector, guard, sizes))
        app.include_router(pages_router())
    if admin is not None:
        app.include_router(admin_router(admin, guard, sizes))
    _add_operations(app, service, metrics)
    if cors_origins:
        _add_cors(app, cors_origins, cors_headers)
    app.add_middleware(AccessLogMiddleware, metrics=metrics)
    return app


def _bare(access: Access) -> FastAPI:
    app = _App(
        title="rehydrate",
        version=version("rehydrate"),
        summary="History hydration and replay for AI conversations that stream over Ably.",
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(access),
        exception_handlers=dict.fromkeys((HTTPException, RehydrateError, Exception), _problem),
    )
    app.router.route_class = Route
    return app


class _App(DirectFastAPI):
    """FastAPI with security schemes in its document, and direct sending for streams."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            document = super().openapi()
            document.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
            drop_annotations(document)
        return super().openapi()


def _backend(access: Access, request: Request) -> bool:
    access.backend(bearer(request))
    return True


def _lifespan(access: Access) -> Any:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        access.open()
        try:
            yield
        finally:
            await access.close()

    return lifespan


def _add_cors(app: FastAPI, origins: Collection[str], headers: Collection[str]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=[*_SENT_HEADERS, *headers],
        expose_headers=_SHOWN_HEADERS,
    )


def _add_operations(app: FastAPI, service: Service, metrics: Metrics) -> None:
    async def healthz() -> Response:
        return answers.live(b'{"status":"ok"}')

    async def readyz() -> Response:
        return answers.live(dump({"status": "ok", "checks": await service.ready()}))

    async def show_metrics() -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    health: dict[str, Any] = {"model": Readiness, "content": {answers.JSON: {}}}
    app.add_api_route(
        "/healthz",
        healthz,
        response_class=Response,
        tags=["operations"],
        summary="Liveness: the process answers",
        responses={200: health, **problems(500)},
    )
    app.add_api_route(
        "/readyz",
        readyz,
        response_class=Response,
        tags=["operations"],
        summary="Readiness: the store answers and its schema is current",
        responses={200: health, **problems(500, 503)},
    )
    app.add_api_route(
        "/metrics",
        show_metrics,
        response_class=Response,
        tags=["operations"],
        summary="Prometheus metrics",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )


async def _problem(request: Request, error: Exception) -> Response:
    """Handle errors outside the routes: unknown paths, wrong methods, errors of the framework."""
    id_ = request_id(request.scope)
    return problem_of(error, id_).response(id_)
