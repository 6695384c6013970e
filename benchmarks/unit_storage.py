"""Storage of photos as image units: bits as information, and bytes in the file, with everything that is in it.

    python benchmarks/unit_storage.py [--model BUNDLE] [--table-rows 20000] [PHOTO...]
    python benchmarks/unit_storage.py --rows 1000000

The first compares a photo as 256 x 256 pixels of 24 bits, as the JPEG that it came as, as WebP of 256 x 256 pixels, and
as image units: of three kinds of tokenizer, in tables of `--table-rows` rows of random units (the worst case: units of
photos are not that even, and zstd finds it), and of a bundle with image units, for the photos themselves. The second
writes a table of so many rows, reads it back, compares what it reads, and prints the memory at each step. Needs
im2sp[units].
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from im2sp.arrays import IntArray
from im2sp.bundle import ImageTokenizer
from im2sp.captioner import Captioner
from im2sp.image.loading import load_image
from im2sp.image.unit_table import UnitTable, write_unit_table

EXAMPLES = Path(__file__).parents[1] / "examples"
SIDE = 256  # pixels
RAW_BITS = SIDE * SIDE * 24
DRAWN = 4_096  # random rows at a time


def described(
    kind: str, grid: tuple[int, int], codes: int, codebook_size: int, checksum: str = "0" * 64
) -> ImageTokenizer:
    """A tokenizer of that kind; only what its units look like counts here."""
    name = f"{kind} {grid[0]}x{grid[1]}x{codes} of {codebook_size}"
    return ImageTokenizer(
        kind=kind, tokenizer=name, checksum=checksum, grid=grid, codes=codes, codebook_size=codebook_size
    )


TOKENIZERS = (
    described("semantic", (4, 4), 4, 256),
    described("semantic", (4, 4), 8, 256),
    described("vit-vqgan", (32, 32), 1, 8_192),  # the paper's, 13,312 bits
)
LARGE = TOKENIZERS[1]  # of the table with very many rows


@dataclass(frozen=True)
class Row:
    """What a photo takes."""

    name: str
    information: float | None  # bits
    stored: float | None  # bytes in a file, shared out between its photos

    def __str__(self) -> str:
        bits = self.information if self.stored is None else self.stored * 8
        information = "" if self.information is None else f"{self.information:,.0f}"
        stored = "" if self.stored is None else f"{self.stored:,.1f}"
        return f"| {self.name} | {information} | {stored} | {100 * (bits or 0) / RAW_BITS:.3f} % |"


def random_rows(tokenizer: ImageTokenizer, count: int, seed: int = 0) -> Iterator[tuple[str, IntArray]]:
    """So many photos: ids as those of Flickr8k, with a random half; units drawn evenly."""
    random = np.random.default_rng(seed)
    for start in range(0, count, DRAWN):
        drawn = min(DRAWN, count - start)
        units = random.integers(0, tokenizer.codebook_size, (drawn, tokenizer.units))
        marks = random.integers(0, 2**40, drawn).tolist()
        for number, (mark, row) in enumerate(zip(marks, units, strict=True), start=start):
            yield f"{1_000_000_000 + number * 3_217}_{mark:010x}.jpg", row


def stored_units(tokenizer: ImageTokenizer, rows: Iterator[tuple[str, IntArray]], name: str) -> Row:
    """What a photo takes in a table of these rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "units.parquet"
        count = write_unit_table(path, tokenizer, rows)
        return Row(f"{name}, table of {count:,}", tokenizer.bits, path.stat().st_size / count)


def picture_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """The photos as pictures."""
    yield Row(f"raw, {SIDE} x {SIDE} x 24 bits", RAW_BITS, RAW_BITS / 8)
    yield Row("the photo's own file (JPEG)", None, float(np.mean([photo.stat().st_size for photo in photos])))
    small = [load_image(photo).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for photo in photos]
    for kind, quality in (("JPEG", 75), ("WEBP", 75), ("WEBP", 0)):
        sizes = [_encoded(image, kind, quality) for image in small]
        yield Row(f"{kind}, {SIDE} x {SIDE}, quality {quality}", None, float(np.mean(sizes)))


def _encoded(image: Image.Image, kind: str, quality: int) -> int:
    file = io.BytesIO()
    image.save(file, kind, quality=quality, **({"method": 6} if kind == "WEBP" else {}))
    return file.tell()


def compare(photos: Sequence[Path], table_rows: int, model: str | None) -> Iterator[Row]:
    """All ways to keep a photo."""
    yield from picture_rows(photos)
    yield Row("ViT-VQGAN as the paper counts it", TOKENIZERS[-1].bits, None)
    for tokenizer in TOKENIZERS:
        yield stored_units(tokenizer, random_rows(tokenizer, table_rows), tokenizer.tokenizer)
    if model is not None:
        captioner = Captioner.from_pretrained(model)
        mine = captioner.image_tokenizer
        found = [(str(photo), captioner.image_units(photo)) for photo in photos]
        yield stored_units(mine, iter(found), f"{mine.tokenizer}, these photos")


def peak_memory() -> float:
    """Megabytes that this process has held at most so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def large_table(count: int, path: Path) -> Iterator[str]:
    """Write and read a table of so many rows; a line about each step. Raises AssertionError when they differ."""

    def watched() -> Iterator[tuple[str, IntArray]]:
        for number, row in enumerate(random_rows(LARGE, count)):
            if number == count // 10:
                memory.append(peak_memory())
            yield row

    memory = [peak_memory()]
    started = time.perf_counter()
    write_unit_table(path, LARGE, watched())
    memory.append(peak_memory())
    yield (
        f"{count:,} rows of {LARGE.tokenizer} written in {time.perf_counter() - started:.0f} s: "
        f"{path.stat().st_size / 1e6:.1f} MB, {path.stat().st_size / count:.1f} bytes a photo for {LARGE.bits:,} bits"
    )
    yield "peak memory: {:.0f} MB before, {:.0f} MB after a tenth of the rows, {:.0f} MB after all".format(*memory)
    started = time.perf_counter()
    table = UnitTable.open(path)
    table.check()
    yield f"every row checked in {time.perf_counter() - started:.0f} s, peak memory {peak_memory():.0f} MB"
    started = time.perf_counter()
    expected = random_rows(LARGE, count)
    for ids, units in table.batches():
        wanted = [next(expected) for _ in ids]
        assert ids == [image_id for image_id, _ in wanted], "the ids differ"
        assert np.array_equal(units, np.stack([row for _, row in wanted])), "the units differ"
    assert next(expected, None) is None, "rows are missing"
    yield f"read and compared in {time.perf_counter() - started:.0f} s, peak memory {peak_memory():.0f} MB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.jpg")))
    parser.add_argument("--model", help="a bundle with image units")
    parser.add_argument("--table-rows", type=int, default=20_000)
    parser.add_argument("--rows", type=int, help="only write and read a table of so many rows")
    options = parser.parse_args(arguments)
    if options.rows is not None:
        with tempfile.TemporaryDirectory() as folder:
            for line in large_table(options.rows, Path(folder) / "units.parquet"):
                print(line, flush=True)
        return
    print("| a photo as | bits of information | bytes in the file | of raw |\n|---|---|---|---|")
    for row in compare(options.photos, options.table_rows, options.model):
        print(row, flush=True)


if __name__ == "__main__":
    main()
