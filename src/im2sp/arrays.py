"""Array types and sampling rates of im2sp; shapes stand in the docstrings of the functions that use them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

SAMPLE_RATE = 16_000  # Hz, everywhere in im2sp
UNIT_RATE = 50  # speech units a second, repeats kept
HOP = SAMPLE_RATE // UNIT_RATE  # samples of one unit
