"""Metrics of the service for Prometheus: numbers only, nothing of a photo or of who sent it."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_METHODS = frozenset(("GET", "HEAD", "POST", "OPTIONS"))


class Metrics:
    """The numbers of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, buckets=_SECONDS, registry=registry)
        self.requests = counter("im2sp_requests", "Requests answered.", ["method", "route", "status"])
        self.answer_seconds = histogram("im2sp_answer_seconds", "From request to the end of its answer.", ["route"])
        self.first_sound_seconds = histogram("im2sp_first_sound_seconds", "From a photo to the first of its speech.")
        self.speech_seconds = counter("im2sp_speech_seconds", "Speech made.")
        self.captions = counter("im2sp_captions", "Photos spoken about.")
        self.given_up = counter("im2sp_given_up", "Photos whose client left or ran out of time.")
        self.sockets = Gauge("im2sp_sockets", "WebSockets open.", registry=registry)
        self.queue = Gauge("im2sp_queue", "Photos being received, waiting or being spoken about.", registry=registry)

    def count_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an answer. Only words of ours become labels: a stranger could fill the memory with others."""
        route = getattr(scope.get("route"), "path", "none") or "none"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.requests.labels(method, route, status).inc()
        self.answer_seconds.labels(route).observe(seconds)

    def exposition(self) -> bytes:
        """Return the numbers in Prometheus' text format."""
        return generate_latest(self.registry)
