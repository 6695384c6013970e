"""A published config.json -> the sizes that we need of it, checked; everything else in it is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from im2sp.errors import reason
from im2sp.train.convert.streams import CheckpointError

CONFIG_BYTES = 2**20

# A config comes from outside: no number in it may take a machine's whole memory or time.
Size = Annotated[int, Field(ge=1, le=65_536)]
Layers = Annotated[int, Field(ge=1, le=128)]
Epsilon = Annotated[float, Field(gt=0, lt=1)]


class PublishedConfig(BaseModel):
    """Base of the configs that we read: unknown fields are somebody else's, known ones must be right."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


C = TypeVar("C", bound=PublishedConfig)


def read_config(path: Path, kind: type[C]) -> C:
    """Read a JSON file.

    Raises:
        CheckpointError: it is missing, not JSON, or a field that we need is missing or out of range.
    """
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {CONFIG_BYTES >> 20} MB: give the published config.json")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: give the published config.json") from error
    return check_config(values, path, kind)


def check_config(values: object, path: Path, kind: type[C]) -> C:
    """The fields of `kind` out of what a config file says. Raises CheckpointError as `read_config` does."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        subject = f"{where}: {what}" if where else what
        raise CheckpointError(f"{path} does not fit ({subject}): give the published config.json") from error
