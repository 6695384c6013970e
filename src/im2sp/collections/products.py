"""What is made of the photos of one shard: captions with their speech, or image units. Each writes its files whole."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from im2sp.arrays import IntArray
from im2sp.batch import CaptionerConfig, CaptionWorker
from im2sp.captioner import Captioner, SpeechCaption
from im2sp.collections.photos import Photo
from im2sp.collections.shards import CAPTIONS, ERRORS, UNITS, WAVS, Shard, ShardResult
from im2sp.errors import BundleError, Im2SpError, about, unexpected
from im2sp.files import replace_whole
from im2sp.image.unit_table import write_unit_table
from im2sp.image.units import ImageUnits
from im2sp.parquet import pyarrow_modules
from im2sp.speech.audio import encode_wav

TABLES = "tables of captions"
_WAV_MODE = 0o644
_ROW_GROUP = 16_384  # rows


class Product(Protocol):
    """Makes the files of a shard of its photos, one result for each photo."""

    def make(self, photos: Iterable[Photo], shard: Shard) -> tuple[ShardResult, list[Path]]:
        """Write the files; give what became of the photos, and which files there are.

        Raises BundleError for a bundle that cannot be used; OSError when the folder cannot be written.
        """
        ...


@dataclass(frozen=True)
class _Row:
    """One line of a table of captions; without an error, all else is there."""

    image_id: str
    wav: str | None = None
    units: list[int] | None = None
    durations: list[int] | None = None
    score: float | None = None
    confidence: float | None = None
    abstained: bool | None = None
    error: str | None = None


class Captions:
    """Captions: `captions-000000.parquet` with a row for each photo, `wavs-000000.tar` with the speech of the rows."""

    def __init__(self, voice: CaptionerConfig) -> None:
        """Raises BundleError, and Im2SpError for options that the bundle cannot follow."""
        self._speaker = CaptionWorker(voice)

    def make(self, photos: Iterable[Photo], shard: Shard) -> tuple[ShardResult, list[Path]]:
        """See `Product`."""
        table, wavs = shard.file(CAPTIONS, ".parquet"), shard.file(WAVS, ".tar")
        rows: list[_Row] = []
        with replace_whole(wavs) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, photo in enumerate(photos):
                caption = photo.error if photo.image is None else self._speaker.try_caption(photo.image, photo.image_id)
                if isinstance(caption, SpeechCaption):
                    rows.append(_spoken(photo.image_id, f"{shard.number:06d}-{number:06d}.wav", caption))
                    _add(tar, rows[-1].wav or "", encode_wav(caption.waveform))
                else:
                    rows.append(_Row(photo.image_id, error=caption))
        _write_captions(table, rows)
        failed = sum(row.error is not None for row in rows)
        return ShardResult(shard.number, len(rows), failed), [table, wavs]


class Units:
    """Image units: `units-000000.parquet`, a table of them, and `errors-000000.parquet` where photos have none.

    A file that would have no rows is not written.
    """

    def __init__(self, model: str, threads: int) -> None:
        """Raises BundleError."""
        self._captioner = Captioner.from_pretrained(model, threads=threads)
        self._tokenizer = self._captioner.image_tokenizer

    def make(self, photos: Iterable[Photo], shard: Shard) -> tuple[ShardResult, list[Path]]:
        """See `Product`."""
        units, errors = shard.file(UNITS, ".parquet"), shard.file(ERRORS, ".parquet")
        failed: list[_Row] = []
        found = self._units(photos, failed)
        count = 0
        first = next(found, None)
        if first is not None:
            count = write_unit_table(units, self._tokenizer, chain([first], found))
        if failed:
            _write_errors(errors, failed)
        rows = {units: count, errors: len(failed)}
        for path in (path for path, number in rows.items() if not number):
            path.unlink(missing_ok=True)  # of an attempt that was not finished
        written = [path for path, number in rows.items() if number]
        return ShardResult(shard.number, count + len(failed), len(failed)), written

    def _units(self, photos: Iterable[Photo], failed: list[_Row]) -> Iterator[tuple[str, IntArray]]:
        for photo in photos:
            units = self._units_of(photo)
            if isinstance(units, str):
                failed.append(_Row(photo.image_id, error=units))
            else:
                yield photo.image_id, units

    def _units_of(self, photo: Photo) -> IntArray | str:
        if photo.image is None or isinstance(photo.image, ImageUnits):
            return photo.error or f"{photo.image_id}: is stored as image units already"
        try:
            return self._captioner.image_units(photo.image)
        except BundleError:
            raise
        except Im2SpError as error:
            return about(photo.image_id, error)
        except Exception as error:  # a defect of ours must not keep the other photos from their rows
            return f"{photo.image_id}: {unexpected(error)}"


def _spoken(image_id: str, wav: str, caption: SpeechCaption) -> _Row:
    return _Row(
        image_id,
        wav,
        caption.units.tolist(),
        caption.durations.tolist(),
        caption.score,
        caption.confidence,
        caption.abstained,
    )


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no times, no owner: the same speech makes the same tar
    member.size, member.mode = len(data), _WAV_MODE
    tar.addfile(member, io.BytesIO(data))


def _write_captions(path: Path, rows: list[_Row]) -> None:
    pa, _ = pyarrow_modules(TABLES)
    numbers = pa.list_(pa.field("element", pa.int32(), nullable=False))
    _write(
        path,
        rows,
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("wav", pa.string()),
            pa.field("units", numbers),
            pa.field("durations", numbers),
            pa.field("score", pa.float32()),
            pa.field("confidence", pa.float32()),
            pa.field("abstained", pa.bool_()),
            pa.field("error", pa.string()),
        ],
    )


def _write_errors(path: Path, rows: list[_Row]) -> None:
    pa, _ = pyarrow_modules(TABLES)
    _write(path, rows, [pa.field(name, pa.string(), nullable=False) for name in ("image_id", "error")])


def _write(path: Path, rows: list[_Row], fields: list[Any]) -> None:
    """A table of those attributes of the rows that the fields name."""
    pa, pq = pyarrow_modules(TABLES)
    columns = [pa.array([_cell(getattr(row, field.name)) for row in rows], field.type) for field in fields]
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    with replace_whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROW_GROUP)


def _cell(value: object) -> object:
    """Sentences may quote the names of files, which need not be UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
