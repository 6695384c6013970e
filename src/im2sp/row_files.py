"""Rows of many photos, in a folder of Parquet files that are complete: what a run has done, and where it goes on."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from im2sp.errors import OutputError, TableError, reason
from im2sp.files import atomic_write
from im2sp.image.unit_table import METADATA_KEY
from im2sp.parquet import opened_parquet, pyarrow_modules

_WHAT = "table of im2sp"
_PARTS = ".parts"  # folder in the output for files that others write


class RowFiles:
    """Files `<name>-*.parquet` with one row a photo: its id, and an error where there is nothing else."""

    def __init__(self, folder: Path, name: str, columns: dict[str, Any], settings: dict[str, Any]) -> None:
        """`columns`: types of pyarrow, besides `image_id` and `error`. `settings`: stand in the metadata of each file.

        Raises OutputError where the folder cannot be written, Im2SpError where pyarrow is missing.
        """
        self._pa, self._pq = pyarrow_modules("tables of image units")
        columns = {"image_id": self._pa.string(), **columns, "error": self._pa.string()}
        self.schema = self._pa.schema(list(columns.items()), metadata={METADATA_KEY: json.dumps(settings).encode()})
        self.parts = (folder / _PARTS).absolute()
        self._folder, self._name = folder, name
        self.collect()

    def finished(self) -> dict[str, str]:
        """Return {image id: error, or ""}. Raises OutputError for files of other settings."""
        found: dict[str, str] = {}
        for path in self._files():
            with opened_parquet(path, _WHAT) as file:
                if (file.metadata.metadata or {}).get(METADATA_KEY) != self.schema.metadata[METADATA_KEY]:
                    raise OutputError(
                        f"{path}: was made with another bundle, other options or of other photos; go on with the same, "
                        "or choose another output"
                    )
                for batch in file.iter_batches(columns=["image_id", "error"]):
                    found.update((row["image_id"], row["error"] or "") for row in batch.to_pylist())
        return found

    def forget(self, ids: frozenset[str]) -> None:
        """Delete the rows of these photos."""
        wanted = self._pa.array(sorted(ids), self._pa.string())
        for path in self._files():
            with opened_parquet(path, _WHAT) as file:
                table = file.read()
            kept = table.filter(self._pa.compute.invert(self._pa.compute.is_in(table["image_id"], value_set=wanted)))
            if not kept.num_rows:
                path.unlink()
            elif kept.num_rows < table.num_rows:
                self._write(path, kept)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write rows to a file of their own."""
        if rows:
            path = self._folder / f"{self._name}-{secrets.token_hex(8)}.parquet"
            self._write(path, self._pa.Table.from_pylist(rows, self.schema))

    def collect(self) -> None:
        """Move files that others completed in `parts` into the folder, delete the others. Raises OutputError."""
        try:
            for path in self.parts.glob("*.parquet"):
                with suppress(TableError):
                    with opened_parquet(path, _WHAT):
                        pass  # the footer, which is written last, is there
                    os.replace(path, self._folder / f"{self._name}-{path.name}")
            if self.parts.exists():
                shutil.rmtree(self.parts)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written to ({reason(error)})") from error

    def sorted_rows(self) -> Iterator[dict[str, Any]]:
        """Yield rows without error, sorted by id."""
        tables = [self.schema.empty_table()]
        for path in self._files():
            with opened_parquet(path, _WHAT) as file:
                tables.append(file.read())
        for batch in self._pa.concat_tables(tables).sort_by("image_id").to_batches(1024):
            yield from (row for row in batch.to_pylist() if row["error"] is None)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}-*.parquet"))

    def _write(self, path: Path, table: Any) -> None:
        try:
            with atomic_write(path) as temporary:
                self._pq.write_table(table, temporary, compression="zstd")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
