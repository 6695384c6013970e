"""Options that recipes of all kinds have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BaseRecipe:
    """Options that all recipes have. A kind adds its sections, which are dataclasses.

    A section with a `seed` has the recipe's, unless it gives its own.
    """

    recipe: str  # its kind
    data: Path  # what the run reads
    runs: Path  # what the run makes: a folder for each stage
    seed: int = 0
    timeout_minutes: float = 60.0  # how long one of several processes waits for another
