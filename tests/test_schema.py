"""Schema: JSON from outside fits or is refused in one sentence that names the place."""

from __future__ import annotations

from typing import Annotated

import pytest
from msgspec import Meta

from im2sp.schema import Schema, SchemaError, parse


class Point(Schema, frozen=True):
    x: Annotated[int, Meta(ge=0)]
    tags: dict[str, int] = {}  # noqa: RUF012  msgspec copies it


class Line(Schema, frozen=True):
    points: tuple[Point, Point]

    def __post_init__(self) -> None:
        if self.points[0] == self.points[1]:
            raise ValueError("both ends are the same")


def test_what_fits() -> None:
    line = Line((Point(0), Point(1, {"a": 2})))
    assert parse(b'{"points": [{"x": 0}, {"x": 1, "tags": {"a": 2}}]}', Line) == line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"points": [{"x": 0}, {"x": -1}]}', "points.1.x: expected `int` >= 0"),
        ('{"points": [{"x": 0}, {"x": 1, "tags": {"a": 0.5}}]}', "points.1.tags[...]: expected `int`, got `float`"),
        ('{"points": [{"x": 0}, {"x": 0}]}', "both ends are the same"),
        ('{"points": [{"x": 0, "a\\n b": 1}]}', "points.0: object contains unknown field `a b`"),
        ("[]", "expected `object`, got `array`"),
    ],
)
def test_what_does_not_fit(text: str, words: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parse(text.encode(), Line)
    assert str(caught.value) == words


@pytest.mark.parametrize("text", [b"", b'{"x": NaN}', b'{"x": 1}{', b"\xff"])
def test_what_is_not_json(text: bytes) -> None:
    with pytest.raises(SchemaError, match="it is not JSON"):
        parse(text, Point)
