"""/health, /ready and /metrics: whether the server lives, whether it takes questions, and what it has done."""

from typing import Any, Literal

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel
from starlette.responses import Response

from hoidap.serve.desk import Desk, Report

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What is counted; any thread may count."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("hoidap_requests", "Requests", ["method", "route", "status"], registry=registry)
        self.answers = Counter("hoidap_answers", "Questions by how they ended", ["outcome"], registry=registry)
        self.first = Histogram("hoidap_first_text_seconds", "Until the first text", registry=registry, buckets=_SECONDS)
        self.whole = Histogram("hoidap_answer_seconds", "Until the end", registry=registry, buckets=_SECONDS)
        self.not_stored = Counter("hoidap_not_stored", "What could not be kept", registry=registry)

    def watch(self, desk: Desk) -> None:
        """Count what a desk does."""
        desk.watch = self._answered
        Gauge("hoidap_open_questions", "Questions at work or waiting", registry=self.registry).set_function(
            lambda: desk.n_open
        )
        restarts = Gauge("hoidap_engine_restarts", "Engines that broke", registry=self.registry)
        restarts.set_function(lambda: desk.n_restarts)
        up = Gauge("hoidap_up", "Whether every bot can be asked", registry=self.registry)
        up.set_function(lambda: desk.state == "up")

    def _answered(self, report: Report) -> None:
        self.answers.labels(report.outcome).inc()
        self.whole.observe(report.seconds)
        if report.first_seconds is not None:
            self.first.observe(report.first_seconds)


class Health(BaseModel):
    """How the server is."""

    status: Literal["loading", "up", "down", "stopping"]


def make_health(desk: Desk, metrics: Metrics) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["Health"])
    refused: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Not now."}}

    def answer(*, is_well: bool) -> Response:
        text = Health(status=desk.state).model_dump_json()
        return Response(text, 200 if is_well else 503, media_type="application/json")

    @router.get("/health", response_model=Health, responses=refused)
    async def health() -> Response:
        """Tell whether the server works: 503 while an engine is down; one that stops still works."""
        return answer(is_well=desk.state in ("up", "stopping"))

    @router.get("/ready", response_model=Health, responses=refused)
    async def ready() -> Response:
        """Tell whether it takes questions."""
        return answer(is_well=desk.state == "up")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def figures() -> Response:
        """Give Prometheus's figures; where there are keys, to an owner's alone."""
        return Response(generate_latest(metrics.registry), media_type=_PLAIN)

    return router
