"""Caption or tokenize very many photos on Ray Data, in several processes or on several machines; resumable.

In: the photos of a collection (`im2sp.image.listing`). Out: a folder of Parquet tables with one row a photo, its wav
among the columns, or one table of image units.

Workers read files and parts of tars themselves: Ray's readers end the run at a file that cannot be read, and hold 512
photos of a tar in memory. Tables are read by Ray Data. `ray` is imported only when it is used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from im2sp.batch import CaptionerConfig, CaptionWorker
from im2sp.bundle import ImageTokenizer
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError, ImageError, about, debugging, reason
from im2sp.files import NamedBytes
from im2sp.image.listing import UNIT_COLUMNS, Collection, Place
from im2sp.image.units import ImageUnits
from im2sp.manifest import locked
from im2sp.parquet import pyarrow_modules
from im2sp.ray.cluster import cluster
from im2sp.row_files import RowFiles
from im2sp.speech.audio import encode_wav
from im2sp.tokenizing import try_tokenize, unit_rows

if TYPE_CHECKING:
    from im2sp.image.loading import ImageSource

BATCH = 32  # photos of a task: what is done again when a worker dies
ROWS_PER_FILE = 512  # at least, but for the last file; about 35 MB with wavs of 2 s
_MOST_DEATHS = 3  # of workers that had the same photo in hand; then it is left out
_BLOCK = 2**24  # bytes of a block of rows


@dataclass(frozen=True)
class Counts:
    """Photos of one run."""

    done: int
    skipped: int  # captioned by an earlier run
    errors: tuple[str, ...]  # sentences: photos without caption, of this and of earlier runs


def caption_collection(
    collection: Collection, out: Path, config: CaptionerConfig, workers: int = 1, *, force: bool = False
) -> Counts:
    """Caption photos into `out`/captions-*.parquet; photos that have a row there are left out, unless with `force`.

    Columns: image_id, wav (the bytes of a wav file), units, durations, score, confidence, hedged, abstained; and error,
    which says why a photo has none of the others. Every photo has one row, also when a worker is killed. Files appear
    when they are complete. `config.model` is a folder; on a cluster, all machines see it, `out` and the photos.

    Raises BundleError for an unusable bundle, Im2SpError for unsupported options and where Ray is missing or fails,
    OutputError when the folder cannot be written, is in use, or was begun with another bundle or other options.
    """
    pa = _pyarrow()
    captioner = Captioner.from_pretrained(config.model)
    files = {name: sha for name, sha in captioner.bundle.checksums.items() if not name.endswith(".md")}
    settings = {"bundle": files, "options": asdict(config.options(captioner))}
    numbers = pa.list_(pa.int32())
    columns = {"wav": pa.binary(), "units": numbers, "durations": numbers, "score": pa.float32()}
    columns |= {"confidence": pa.float32(), "hedged": pa.bool_(), "abstained": pa.bool_()}
    with locked(out):
        rows = RowFiles(out, "captions", columns, settings)
        if force:
            rows.forget(collection.ids)
        return _complete(collection, rows, _Captions, config, workers)


def tokenize_collection(collection: Collection, table: Path, config: CaptionerConfig, workers: int = 1) -> Counts:
    """Write a table with the image units of each photo that can be read, sorted by id.

    As `im2sp.tokenizing.tokenize_photos`. `config.model` is a folder.
    """
    with unit_rows(collection, table, Captioner.from_pretrained(config.model)) as rows:
        return _complete(collection, rows, _Units, config, workers)


def _pyarrow() -> Any:
    return pyarrow_modules("collections on Ray", "ray")[0]


def _complete(
    collection: Collection, rows: RowFiles, worker: type[_Worker], config: CaptionerConfig, workers: int
) -> Counts:
    """Make the rows of the photos that are not done; complete files are kept also when this is stopped."""
    before = rows.finished()
    if not collection.ids <= before.keys():
        on_cluster = bool(os.environ.get("RAY_ADDRESS"))  # which divides its cores itself
        config = replace(config, threads=config.threads or 1) if on_cluster else config.for_workers(workers)
        try:
            rows.parts.mkdir(exist_ok=True)
            work = _Work(config, rows.schema, rows.parts, collection.tokenizer)
            _make_rows(collection, set(before), worker, work, workers)
        finally:
            rows.collect()
    errors = tuple(error for image_id, error in sorted(rows.finished().items()) if error and image_id in collection.ids)
    skipped = sum(before.get(image_id) == "" for image_id in collection.ids)
    return Counts(len(collection.ids) - skipped - len(errors), skipped, errors)


def _make_rows(collection: Collection, done: set[str], worker: type[_Worker], work: _Work, workers: int) -> None:
    """Write rows of the photos that are not done to files in `work.parts`."""
    with cluster(workers, work.config.threads) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = sys.stderr.isatty()
        context.target_max_block_size = _BLOCK
        context.max_consecutive_actor_init_deaths = _MOST_DEATHS
        if not debugging():
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        try:
            rows = _dataset(ray.data, collection, done).map_batches(
                worker,
                fn_constructor_args=(work,),
                batch_size=BATCH,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=max(1, work.config.threads),
            )
            rows.write_parquet(str(work.parts), schema=work.schema, min_rows_per_file=ROWS_PER_FILE, compression="zstd")
        except ray.exceptions.RayError as error:
            raise Im2SpError(f"Ray gave up ({reason(_root(error))}); run the same command again to go on") from error


def _root(error: BaseException) -> BaseException:
    """Return the exception of the worker inside those that Ray wraps around it."""
    inner = getattr(error, "cause", None) or error.__cause__
    return _root(inner) if inner is not None and inner is not error else error


def _dataset(data: Any, collection: Collection, done: set[str]) -> Any:
    """Return a Dataset of the photos that are not done, with columns for `_image`."""
    pa = _pyarrow()
    if collection.tables:
        tables = data.read_parquet(list(map(str, collection.tables))).select_columns(list(collection.columns))
        arguments = {"columns": collection.columns, "done": pa.array(sorted(done), pa.string())}
        return tables.map_batches(_not_done, fn_kwargs=arguments, batch_size=None, batch_format="pyarrow")
    columns = [("image_id", pa.string()), ("path", pa.binary()), ("offset", pa.int64()), ("size", pa.int64())]
    places = [place for place in collection.places if place.image_id not in done]
    batches = (places[first : first + BATCH] for first in range(0, len(places), BATCH))
    tables = (pa.Table.from_pylist([place._asdict() for place in batch], pa.schema(columns)) for batch in batches)
    return data.from_arrow(list(tables))


def _not_done(batch: Any, columns: tuple[str, str], done: Any) -> Any:
    """Rows of a table -> image_id and image_units or image, without those in `done`."""
    pa = _pyarrow()
    ids, photos = (batch[name] for name in columns)
    while pa.types.is_struct(photos.type):
        photos = pa.compute.struct_field(photos, "bytes")
    name = UNIT_COLUMNS[1] if columns == UNIT_COLUMNS else "image"
    table = pa.table({"image_id": ids.cast(pa.string()), name: photos})
    return table.filter(pa.compute.invert(pa.compute.is_in(table["image_id"], value_set=done)))


@dataclass(frozen=True)
class _Work:
    """What a worker needs."""

    config: CaptionerConfig
    schema: Any  # of the rows
    parts: Path  # folder that all workers see
    tokenizer: ImageTokenizer | None  # of image units in the place of photos


class _Worker:
    """Actor with a captioner of its own: a batch of photos in, a table of rows out.

    When it dies, Ray starts another one and hands it the same batch.
    """

    def __init__(self, work: _Work) -> None:
        self._work = work

    def __call__(self, batch: Any) -> Any:
        """Return one row for each photo."""
        rows = [{"image_id": photo["image_id"], **self._try_row(photo)} for photo in batch.to_pylist()]
        return _pyarrow().Table.from_pylist(rows, schema=self._work.schema)

    def _try_row(self, photo: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of one photo, or an error where it cannot be read, or has killed workers before."""
        name = photo["image_id"]
        mark = self._work.parts / f"{hashlib.sha256(name.encode()).hexdigest()}.deaths"  # one byte each
        if mark.exists() and mark.stat().st_size >= _MOST_DEATHS:
            return {"error": f"{name}: ended the process that worked on it {_MOST_DEATHS} times, and is left out"}
        with mark.open("ab") as file:
            file.write(b".")
        try:
            row = self.row(_image(photo, self._work.tokenizer), name)
        except ImageError as error:
            row = {"error": about(name, error)}
        finally:
            mark.unlink()  # unless the process was killed
        if "error" in row:  # may quote file names, which need not be text
            row["error"] = row["error"].encode("utf-8", "backslashreplace").decode()
        return row

    def row(self, image: ImageSource | ImageUnits, image_id: str) -> dict[str, Any]:
        """Return the columns of one photo. Raises ImageError."""
        raise NotImplementedError


class _Captions(_Worker):
    """Rows of captions."""

    def __init__(self, work: _Work) -> None:
        super().__init__(work)
        self._worker = CaptionWorker(work.config)

    def row(self, image: ImageSource | ImageUnits, image_id: str) -> dict[str, Any]:
        caption = self._worker.try_caption(image, image_id)
        if isinstance(caption, str):
            return {"error": caption}
        columns = {name: getattr(caption, name) for name in ("score", "confidence", "hedged", "abstained")}
        columns |= {name: getattr(caption, name).tolist() for name in ("units", "durations")}
        return columns | {"wav": encode_wav(caption.waveform)}


class _Units(_Worker):
    """Rows of image units."""

    def __init__(self, work: _Work) -> None:
        super().__init__(work)
        self._captioner = Captioner.from_pretrained(work.config.model, threads=work.config.threads)

    def row(self, image: ImageSource | ImageUnits, image_id: str) -> dict[str, Any]:
        units = try_tokenize(self._captioner, lambda: image, image_id)
        return {"error": units} if isinstance(units, str) else {"image_units": units.tolist()}


def _image(photo: dict[str, Any], tokenizer: ImageTokenizer | None) -> Path | NamedBytes | ImageUnits:
    """Return what a Captioner takes for a row of `_dataset`. Raises ImageError."""
    if "image_units" in photo:
        assert tokenizer is not None  # list_photos saw to it
        return ImageUnits(np.array(photo["image_units"]), tokenizer)
    if "image" in photo:
        return NamedBytes(photo["image"] or b"", photo["image_id"])
    return Place(**photo).read()
