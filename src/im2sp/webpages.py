"""What the pages that im2sp writes have in common: nothing in them is taken from outside or for markup."""

from __future__ import annotations

import base64
import hashlib


def policy_hash(text: str) -> str:
    """How a Content-Security-Policy names an inline style or script: by its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def printable(name: str) -> str:
    """A file name as text; names need not be any, and lone surrogates cannot be written as UTF-8."""
    return name.encode("utf-8", "replace").decode()
