"""Exceptions whose message is one sentence for the user, and the phrases that such sentences are made of."""

from __future__ import annotations

import errno
import os
import traceback


class Im2SpError(Exception):
    """What was wrong, with what, and what to do about it, in one sentence."""


class ImageError(Im2SpError):
    """A picture that cannot be read or is refused."""


class TableError(Im2SpError):
    """A table of image units that cannot be read or is refused."""


class AudioError(Im2SpError):
    """A recording that cannot be read or is refused."""


class BundleError(Im2SpError):
    """A bundle that is missing, damaged, too new or inconsistent."""


class GraphError(BundleError):
    """A graph that cannot be opened or does not match the config; its bundle is unusable."""


class PlaybackError(Im2SpError):
    """Sound that cannot be played."""


class OutputError(Im2SpError):
    """An output folder that cannot be written, is in use, or holds files of another program."""


_REASONS = {
    errno.ENOENT: "there is no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "the disk can only be read",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file is where a folder should be",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many files are open",
}


def reason(error: BaseException) -> str:
    """The reason behind `error` in a few words, on one line, without its class where it says anything."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OSError) and error.errno in _REASONS:
        return _REASONS[error.errno]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    words = " ".join(str(error).split())
    return words.rstrip(".") or type(error).__name__


def about(name: str, error: BaseException) -> str:
    """The sentence of an error that is one already, with what it is about in front where it does not say so."""
    sentence = str(error)
    return sentence if name in sentence else f"{name}: {sentence}"


def unexpected(error: BaseException) -> str:
    """The sentence for a defect of our own; with IM2SP_DEBUG=1 the traceback goes to stderr before it."""
    if debugging():
        traceback.print_exception(error)
    return f"unexpected {type(error).__name__} ({reason(error)}); set IM2SP_DEBUG=1 to see where, and please report it"


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("IM2SP_DEBUG", "") not in ("", "0")
