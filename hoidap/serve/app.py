"""The application: every route, behind the guard."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

import hoidap
from hoidap.errors import HoidapError
from hoidap.run import Run
from hoidap.serve.completions import make_completions
from hoidap.serve.desk import Desk
from hoidap.serve.guard import Guard
from hoidap.serve.health import Metrics, make_health
from hoidap.serve.keys import Keys
from hoidap.serve.owner import make_owner
from hoidap.serve.settings import Settings
from hoidap.serve.site import make_site
from hoidap.serve.store import Store
from hoidap.serve.visitors import make_visitors
from hoidap.serve.wire import ChatChunk, ErrorBody, error_response, status_of, validation_error


def make_app(settings: Settings, desk: Desk, store: Store, runs: Mapping[str, Run]) -> ASGIApp:
    """Return the application.

    Args:
        settings: where it listens and what is allowed.
        desk: who answers.
        store: what was asked, and the keys.
        runs: the bots' folders, by the bots' ids: what the owner corrects is kept there.
    """
    metrics = Metrics()
    metrics.watch(desk)
    keys = Keys(store)
    seconds, embedding = settings.answer_seconds, bool(settings.allowed_origins)
    app = make_routes(settings, desk, metrics)
    app.include_router(make_owner(desk, store, keys, runs), include_in_schema=False)
    visitors = make_visitors(desk, store, embedding=embedding, seconds=seconds, unstored=metrics.not_stored.inc)
    app.include_router(visitors, include_in_schema=False)
    app.include_router(make_site(settings.allowed_origins), include_in_schema=False)
    return Guard(app, settings, keys, metrics.requests)


def make_routes(settings: Settings, desk: Desk, metrics: Metrics) -> FastAPI:
    """Return what a program asks: /v1 and the server's health."""
    app = FastAPI(
        title="hoidap", version=hoidap.__version__, docs_url=None, redoc_url=None, redirect_slashes=False,
        description="Answers of Vietnamese question–answer bots, in the shapes of OpenAI's API.",
    )  # fmt: skip
    app.include_router(make_completions(desk, settings))
    app.include_router(make_health(desk, metrics))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(HoidapError, _own)
    app.add_exception_handler(Exception, _own)
    app.openapi = _described(app.openapi)  # type: ignore[method-assign]
    return app


async def _invalid(_request: Request, error: Exception) -> Response:
    """What FastAPI answers with 422 is a bad request to OpenAI's clients."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it handles nothing else
    return error_response(400, validation_error(error))


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it handles nothing else
    known = {404: ("there is nothing at this address", "not_found"), 405: ("not by this method", "method_not_allowed")}
    message, code = known.get(error.status_code, (str(error.detail), "invalid_request"))
    body = ErrorBody(message=message, type="invalid_request_error", param=None, code=code)
    return error_response(error.status_code, body, error.headers)


async def _own(_request: Request, error: Exception) -> Response:
    return error_response(*status_of(error))


def _described(describe: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Have the schema tell of a stream's events, and not of an answer with 422, which no route here gives."""

    def described() -> dict[str, Any]:
        schema = describe()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        schemas = schema["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        event = ChatChunk.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        schemas |= {**event.pop("$defs"), "ChatChunk": event} | schemas
        return schema

    return described
