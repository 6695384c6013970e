"""The one exception family that im2sp raises on purpose: a sentence for people."""


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
