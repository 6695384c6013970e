"""Refusals: what the service answers instead of speech, always one sentence as JSON."""

from __future__ import annotations

import math

from starlette.responses import JSONResponse


class Refusal(Exception):
    """A request that is not served: status, sentence, and perhaps when to come back."""

    def __init__(self, status: int, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after = retry_after  # seconds

    def response(self) -> JSONResponse:
        """As an answer."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return JSONResponse({"error": self.sentence}, self.status, headers)
