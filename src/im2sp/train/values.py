"""Values of JSON and TOML files, which have lists, as those of frozen dataclasses, which have tuples."""

from __future__ import annotations

from typing import Any


def as_tuples(value: Any) -> Any:
    """Lists, and lists in lists, become tuples; everything else stays."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value
