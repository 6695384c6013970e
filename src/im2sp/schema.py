"""Untrusted JSON in, typed and checked values out; errors are one sentence with the path of the wrong value."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

S = TypeVar("S", bound="Schema")


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of schemas of untrusted JSON: unknown fields, other types and values beyond limits are errors.

    `parse` checks types and limits; both `parse` and Python run the `__post_init__`, which raises ValueError.
    """


class SchemaError(ValueError):
    """Invalid JSON value and its path: "image.height: expected `int` <= 4096"."""


def parse(text: bytes, schema: type[S]) -> S:
    """Parse JSON into a value of that schema. Raises SchemaError."""
    try:
        return msgspec.json.decode(text, type=schema, strict=True)
    except msgspec.ValidationError as error:
        raise SchemaError(_sentence(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SchemaError("it is not JSON") from error


def _sentence(message: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.image.mean[0]`" with the path first."""
    what, _, place = message.partition(" - at ")
    where = re.sub(r"\[(\d+)\]", r".\1", place.replace("`", ""))
    where = re.sub(r"\$\.?", "", where)
    what = what[:1].lower() + what[1:]
    return " ".join((f"{where}: {what}" if where else what).split())  # names of fields may hold anything
