"""Values of TOML and JSON files -> typed dataclasses."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from im2sp.errors import Im2SpError

T = TypeVar("T")


def parse(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Make a dataclass, with dataclasses in it, of the values of a TOML or JSON file.

    Raises Im2SpError when a key is unknown or missing, or a value is of another type.
    """
    _refuse_unknown(kind, values, where)
    try:
        return msgspec.convert(values, kind, dec_hook=lambda type_, value: type_(value))
    except msgspec.ValidationError as error:
        raise Im2SpError(f"{where}: {error}") from error


def _refuse_unknown(kind: type[Any], values: dict[str, Any], where: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise Im2SpError(f"{where} has the unknown key {name!r}: known are {', '.join(sorted(hints))}")
        kinds = [kind for kind in (hints[name], *get_args(hints[name])) if isinstance(kind, type)]
        inner = next(filter(is_dataclass, kinds), None)
        for part in value if isinstance(value, list) else [value]:
            if inner and isinstance(part, dict):
                _refuse_unknown(inner, part, f"{where}, section [{name}],")
