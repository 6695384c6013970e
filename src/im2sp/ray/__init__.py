"""Caption or tokenize very many photos on Ray Data, in several processes or on several machines; resumable.

In: the photos of a collection (`im2sp.image.listing`). Out: a folder of Parquet tables with one row a photo, its wav
among the columns, or one table of image units.

Workers read files and parts of tars themselves: Ray's readers end the run at a file that cannot be read, and hold 512
photos of a tar in memory. Tables are read by Ray Data. `ray` is imported only when it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from im2sp.batch import CaptionerConfig, CaptionWorker
from im2sp.bundle import ImageTokenizer
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError, ImageError, OutputError, TableError, about, debugging, reason
from im2sp.files import NamedBytes
from im2sp.image.listing import UNIT_COLUMNS, Collection, Place
from im2sp.image.unit_table import METADATA_KEY
from im2sp.image.units import ImageUnits
from im2sp.manifest import locked
from im2sp.parquet import opened_parquet, pyarrow_modules
from im2sp.ray.cluster import cluster
from im2sp.speech.audio import encode_wav
from im2sp.tokenizing import finish_table, try_tokenize, working_folder

if TYPE_CHECKING:
    from im2sp.image.loading import ImageSource

BATCH = 32  # photos of a task: what is done again when a worker dies
ROWS_PER_FILE = 512  # at least, but for the last file; about 35 MB with wavs of 2 s
_FILE = "table of im2sp"
_PARTS = ".parts"  # folder in the output for files that are being written
_MOST_DEATHS = 3  # of workers that had the same photo in hand; then it is left out
_BLOCK = 2**24  # bytes of a block of rows


@dataclass(frozen=True)
class Counts:
    """Photos of one run."""

    done: int
    skipped: int  # captioned by an earlier run
    errors: tuple[str, ...]  # sentences: photos without caption, of this and of earlier runs


def caption_collection(collection: Collection, out: Path, config: CaptionerConfig, workers: int = 1) -> Counts:
    """Caption photos into `out`/captions-*.parquet; photos that have a row there are left out.

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
    columns = {"image_id": pa.string(), "wav": pa.binary(), "units": numbers, "durations": numbers}
    columns |= {"score": pa.float32(), "confidence": pa.float32(), "hedged": pa.bool_(), "abstained": pa.bool_()}
    columns |= {"error": pa.string()}
    with locked(out):
        output = _Output(out, "captions", columns, settings)
        before = output.finished()
        output.add(collection, before.keys(), _Captions, config, workers)
        return _counts(collection, before, output.finished())


def tokenize_collection(collection: Collection, table: Path, config: CaptionerConfig, workers: int = 1) -> Counts:
    """Write a table with the image units of each photo that can be read, sorted by id.

    Until the table appears, finished photos are kept in the folder `<table>.part`. Apart from that, as
    `caption_collection`; also raises BundleError for a bundle without image units.
    """
    pa = _pyarrow()
    tokenizer = Captioner.from_pretrained(config.model).image_tokenizer
    columns = {"image_id": pa.string(), "image_units": pa.list_(pa.uint16()), "error": pa.string()}
    with working_folder(table) as work:
        output = _Output(work, "units", columns, tokenizer.described())
        before = output.finished()
        output.add(collection, before.keys(), _Units, config, workers)
        after = output.finished()
        finish_table(work, table, tokenizer, output.units(collection.ids))
    return _counts(collection, before, after)


def _pyarrow() -> Any:
    return pyarrow_modules("collections on Ray", "ray")[0]


def _counts(collection: Collection, before: dict[str, str], after: dict[str, str]) -> Counts:
    errors = tuple(error for image_id, error in sorted(after.items()) if error and image_id in collection.ids)
    skipped = sum(before.get(image_id) == "" for image_id in collection.ids)
    return Counts(len(collection.ids) - skipped - len(errors), skipped, errors)


class _Output:
    """Folder of Parquet files with one row a photo; complete files only."""

    def __init__(self, folder: Path, name: str, columns: dict[str, Any], settings: dict[str, Any]) -> None:
        """`settings`: stand in the metadata of each file. Raises OutputError where the folder cannot be written."""
        pa = _pyarrow()
        self.schema = pa.schema(list(columns.items()), metadata={METADATA_KEY: json.dumps(settings).encode()})
        self._folder, self._name, self._parts = folder, name, (folder / _PARTS).absolute()
        self._collect()

    def add(
        self, collection: Collection, done: Iterable[str], worker: type[_Worker], config: CaptionerConfig, workers: int
    ) -> None:
        """Make the rows of the photos that are not done; complete files are kept also when this is stopped."""
        if collection.ids <= (finished := set(done)):
            return
        on_cluster = bool(os.environ.get("RAY_ADDRESS"))  # which divides its cores itself
        config = replace(config, threads=config.threads or 1) if on_cluster else config.for_workers(workers)
        try:
            self._parts.mkdir(exist_ok=True)
            work = _Work(config, self.schema, self._parts, collection.tokenizer)
            _make_rows(collection, finished, worker, work, workers)
        finally:
            self._collect()

    def finished(self) -> dict[str, str]:
        """Return {image id: error, or ""}. Raises OutputError for files of other settings."""
        found: dict[str, str] = {}
        for path in self._files():
            with opened_parquet(path, _FILE) as file:
                if (file.metadata.metadata or {}).get(METADATA_KEY) != self.schema.metadata[METADATA_KEY]:
                    raise OutputError(
                        f"{path}: was made with another bundle or other options; go on with the same, or choose "
                        "another output"
                    )
                for batch in file.iter_batches(columns=["image_id", "error"]):
                    found.update((row["image_id"], row["error"] or "") for row in batch.to_pylist())
        return found

    def units(self, ids: frozenset[str]) -> Iterator[tuple[str, Any]]:
        """Yield image ids and units int64 [units] of photos without error, sorted by id."""
        pa = _pyarrow()
        tables = [self.schema.empty_table()]
        for path in self._files():
            with opened_parquet(path, _FILE) as file:
                tables.append(file.read())
        for batch in pa.concat_tables(tables).sort_by("image_id").to_batches(1024):
            for row in batch.to_pylist():
                if row["error"] is None and row["image_id"] in ids:
                    yield row["image_id"], np.array(row["image_units"])

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}-*.parquet"))

    def _collect(self) -> None:
        """Move complete files of a run that ended into the folder, delete the others."""
        try:
            for path in self._parts.glob("*.parquet"):
                with suppress(TableError):
                    with opened_parquet(path, _FILE):
                        pass  # the footer, which is written last, is there
                    os.replace(path, self._folder / f"{self._name}-{path.name}")
            if self._parts.exists():
                shutil.rmtree(self._parts)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written to ({reason(error)})") from error


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
        units = try_tokenize(self._captioner, image, image_id)
        return {"error": units} if isinstance(units, str) else {"image_units": units.tolist()}


def _image(photo: dict[str, Any], tokenizer: ImageTokenizer | None) -> Path | NamedBytes | ImageUnits:
    """Return what a Captioner takes for a row of `_dataset`. Raises ImageError."""
    if "image_units" in photo:
        assert tokenizer is not None  # list_photos saw to it
        return ImageUnits(np.array(photo["image_units"]), tokenizer)
    if "image" in photo:
        return NamedBytes(photo["image"] or b"", photo["image_id"])
    return Place(**photo).read()
