"""A shard's photos in, its files out, in whichever process: read, made, sealed, the same again after a process died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from im2sp.collections.photos import Photo
from im2sp.collections.products import Product
from im2sp.collections.shards import MOST_DEATHS, Attempts, Shard, ShardResult, attempts_at
from im2sp.collections.slices import Slice, read_whole, rest_of
from im2sp.errors import OutputError, reason

_ENDED = f"ended the process that worked on it {MOST_DEATHS} times, perhaps for want of memory, and is left out"


def make_shard(folder: Path, number: int, piece: Slice, product: Product) -> ShardResult:
    """Make a shard with one result for each of its photos; nothing is done where it is sealed already.

    Raises OutputError when the folder cannot be written, BundleError for a bundle that cannot be used.
    """
    shard = Shard(folder, number)
    if sealed := shard.sealed():  # by this very task, before its worker died
        return sealed[0]
    with attempts_at(shard) as attempts:
        try:
            result, files = product.make(_guarded(piece, attempts), shard)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written to ({reason(error)})") from error
    shard.seal(result, files)
    return result


def _guarded(piece: Slice, attempts: Attempts) -> Iterator[Photo]:
    """The photos, each under an id of its own, and errors in the place of those that killed their process before."""
    seen: set[str] = set()
    for row, photo in enumerate(_read(piece, attempts)):
        if photo.image_id in seen:
            yield Photo(photo.image_id, error=f"{photo.image_id}: stands twice in {piece.where}; the first one counts")
            continue
        seen.add(photo.image_id)
        if photo.error is None and not attempts.begin("make", row):
            photo = Photo(photo.image_id, error=f"{photo.image_id}: {_ENDED}")
        yield photo


def _read(piece: Slice, attempts: Attempts) -> Iterator[Photo]:
    photos = read_whole(piece)
    row = 0
    while attempts.begin("read", row):
        photo = next(photos, None)
        if photo is None:
            return
        yield photo
        row += 1
    yield from rest_of(piece, row, f"{piece.where}: {_ENDED}")
