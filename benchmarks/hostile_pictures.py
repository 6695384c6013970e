"""Make 60 hostile pictures and measure what each costs through Python, the command line and the service.

    python benchmarks/hostile_pictures.py OUT [MIB]

Prints for each way the longest processor time (of the service: the longest answer) and the most memory of a process,
decoding children included (of the service: of all its processes at a time, and of each); how long the service took to
tell its health meanwhile; and whether SIGTERM ends it while it decodes. `MIB`: size of the larger files, 16 or 64.
Linux.
"""

from __future__ import annotations

import argparse
import io
import os
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from processes import children, memory, service

PYTHON = "import sys; from im2sp.image.loading import load_image; load_image(sys.argv[1])"
SIDE = 8_000  # pixels; the square is the largest picture that is taken


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def directory(size: int) -> bytes:
    """Return a TIFF of that many bytes, half of them entries that all name the other half."""
    count = min(65_535, size // 24)
    start = 14 + 12 * count
    known = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: start, 277: 1, 278: 16, 279: 256}
    short = (258, 259, 262, 277)
    entries = [struct.pack("<HHII", tag, 3 if tag in short else 4, 1, value) for tag, value in known.items()]
    entries += [struct.pack("<HHII", 1_000 + i, 1, size - start, start) for i in range(count - len(known))]
    return b"II*\0" + struct.pack("<IH", 8, count) + b"".join(entries) + bytes(4) + b"U" * (size - start)


def scans(side: int, size: int) -> bytes:
    """Return a progressive JPEG of that many bytes whose last scan is there over and over."""
    whole = encoded(Image.new("RGB", (side, side), (120, 60, 30)), "JPEG", progressive=True, quality=50)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (size // len(last)) + whole[-2:]


def jpegs(size: int) -> Iterator[tuple[str, bytes]]:
    """Padding, junk, segments and scans."""
    whole = encoded(Image.new("RGB", (64, 64), (120, 60, 30)), "JPEG")

    def inserted(piece: bytes, total: int = size) -> bytes:
        return whole[:2] + piece * (total // len(piece)) + whole[2:]

    def exif(data: bytes) -> bytes:
        return b"\xff\xe1" + struct.pack(">H", len(data) + 8) + b"Exif\0\0" + data

    yield "padding.jpg", inserted(b"\xff")
    yield "junk.jpg", inserted(b"\xff\0")
    yield "comments.jpg", inserted(b"\xff\xfe\0\2")
    yield "exif_pieces.jpg", inserted(exif(b"x"))
    yield "exif_large_pieces.jpg", inserted(exif(bytes(65_000)))
    pieces = (directory(256_000)[i : i + 65_000] for i in range(0, 256_000, 65_000))
    yield "exif_directory.jpg", whole[:2] + b"".join(map(exif, pieces)) + whole[2:]
    yield "scans_small.jpg", scans(2_000, 200_000)
    yield "scans.jpg", scans(SIDE, 2_000_000)
    yield "scans_full.jpg", scans(SIDE, size)


def pngs(size: int) -> Iterator[tuple[str, bytes]]:
    """Chunks and pixels."""
    whole = encoded(Image.new("RGB", (32, 32)), "PNG")

    def inserted(data: bytes) -> bytes:
        return whole[:33] + data + whole[33:]

    zeros = zlib.compress(bytes(300_000_000), 9)
    megabyte = zlib.compress(bytes(2**20 - 1), 9)
    yield "text.png", inserted(b"".join(chunk(b"tEXt", b"%x\0" % i) for i in range(size // 20)))
    yield "text_same.png", inserted(chunk(b"tEXt", b"a\0") * (size // 14))
    yield "private.png", inserted(chunk(b"prVt", b"") * (size // 12))
    yield "ztxt.png", inserted(b"".join(chunk(b"zTXt", b"k%d\0\0" % i + megabyte) for i in range(500)))
    yield "iccp.png", inserted(chunk(b"iCCP", b"p\0\0" + zeros))
    yield "itxt.png", inserted(chunk(b"iTXt", b"k\0\1\0\0\0" + zeros))
    yield "exif_directory.png", inserted(chunk(b"eXIf", directory(256_000)))
    yield (
        "huge.png",
        whole[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)) + whole[33:],
    )
    for name, bits, colour, lace, row in (("rgba16", 16, 6, 0, 8 * SIDE), ("interlaced", 16, 4, 1, 4 * SIDE + 8)):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, lace))
        yield f"{name}.png", whole[:8] + head + chunk(b"IDAT", zlib.compress(bytes(SIDE * (1 + row)), 9)) + whole[-12:]
    frame = struct.pack(">IIIIHHBB", 32, 32, 0, 0, 1, 10, 0, 0)
    frames = (
        chunk(b"fcTL", struct.pack(">I", 2 * i) + frame)
        + chunk(b"fdAT", struct.pack(">I", 2 * i + 1) + zlib.compress(bytes(32 * 97)))
        for i in range(1, size // 120)
    )
    yield "frames.png", inserted(chunk(b"acTL", struct.pack(">II", 100_000, 0)) + b"".join(frames))


def others(size: int) -> Iterator[tuple[str, bytes]]:
    """GIF, TIFF, BMP, and animations."""
    whole = encoded(Image.new("P", (16, 16)), "GIF")
    start = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    comment = b"\x21\xfe\x01x\0"
    for name, piece in (("comments", comment * (size // 5)), ("comments_2mb", comment * 400_000)):
        yield f"{name}.gif", whole[:start] + piece + whole[start:]
    long = b"\x21\xfe" + (b"\xff" + b"c" * 255) * (size // 256) + b"\0"
    yield "comment_long.gif", whole[:start] + long + whole[start:]
    yield "frames.gif", whole[:start] + whole[start:-1] * min(100_000, size // len(whole)) + b";"
    for width, height in ((65_535, 65_535), (60_000, 1_066)):
        head = b"GIF89a" + struct.pack("<HH", width, height) + b"\xf0\0\0" + bytes(6)
        yield f"screen_{width}_{height}.gif", head + whole[start:]
    for bytes_ in (65_000, 256_000, 1_000_000):
        yield f"directory_{bytes_}.tif", directory(bytes_)
    loop = (struct.pack("<HHHIII", 1, 256, 4, 1, 16, 8 + 18 * ((i + 1) % 200_000)) for i in range(200_000))
    yield "directories.tif", b"II*\0" + struct.pack("<I", 8) + b"".join(loop)
    pairs = min(size // 2, 60_000_000)
    for name, piece, width, height in (
        ("rle", b"\x01\0", int(pairs**0.5), int(pairs**0.5)),
        ("rle_delta", b"\0\2\0\0", int(pairs**0.5), int(pairs**0.5)),
        ("rle_lines", b"\0\0", 60_000, 1_000),
    ):
        data = piece * (2 * pairs // len(piece))
        head = b"BM" + struct.pack("<IHHI", 1_078 + len(data), 0, 0, 1_078)
        head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 2_835, 2_835, 256, 256)
        yield f"{name}.bmp", head + bytes(1_024) + data
    info = struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "huge.bmp", b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + info + bytes(46)
    small = Image.new("RGB", (32, 32))
    yield "exif_directory.webp", encoded(small, "WEBP", exif=directory(256_000))
    yield "exif_directory.avif", encoded(small, "AVIF", exif=b"Exif\0\0" + directory(256_000))
    frames = [Image.new("RGB", (16, 16), (i % 255, i // 255, 0)) for i in range(3_000)]
    yield "frames.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def large(_: int) -> Iterator[tuple[str, bytes]]:
    """Small files of many pixels."""
    for mode in ("RGBA", "RGB", "L", "1", "P", "I;16"):
        yield f"large_{mode.replace(';', '')}.png", encoded(Image.new(mode, (SIDE, SIDE)), "PNG")
    options: dict[str, dict[str, object]] = {
        "webp": {"lossless": True, "method": 0}, "gif": {}, "avif": {"speed": 10}, "jpeg": {}
    }  # fmt: skip
    for kind, extra in options.items():
        for mode in ("P",) if kind == "gif" else ("RGB",) if kind == "jpeg" else ("RGB", "RGBA"):
            yield f"large_{mode}.{kind}", encoded(Image.new(mode, (SIDE, SIDE)), kind.upper(), **extra)
    yield "large_progressive.jpeg", encoded(Image.new("RGB", (SIDE, SIDE)), "JPEG", progressive=True)
    for compression in ("tiff_lzw", "tiff_deflate", "zstd", "packbits", "jpeg"):
        yield f"large_{compression}.tif", encoded(Image.new("RGB", (SIDE, SIDE)), "TIFF", compression=compression)
    yield "large_rgba.tif", encoded(Image.new("RGBA", (SIDE, SIDE)), "TIFF", compression="tiff_lzw")
    yield "large_group4.tif", encoded(Image.new("1", (SIDE, SIDE)), "TIFF", compression="group4")
    yield "large_float.tif", encoded(Image.new("F", (SIDE, SIDE)), "TIFF", compression="tiff_deflate")


def make(out: Path, mib: int) -> list[Path]:
    """Write the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    for maker in (jpegs, pngs, others, large):
        for name, data in maker(mib * 2**20 - 8_192):
            (out / name).write_bytes(data)
    return sorted(out.iterdir())


def cost(command: list[str]) -> tuple[float, int, int]:
    """Run a command: seconds of processor time and peak bytes of a process, with those it waited for; exit code."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, process.returncode


def table(way: str, pictures: list[Path], measure: Callable[[Path], tuple[float, int, int]]) -> None:
    """Print the most expensive pictures of one way."""
    found = {picture.name: measure(picture) for picture in pictures}
    slowest = max(found, key=lambda name: found[name][0])
    largest = max(found, key=lambda name: found[name][1])
    codes = sorted({code for _, _, code in found.values()})
    print(
        f"{way}: {len(found)} pictures; {found[slowest][0]:.1f} s at most ({slowest}), "
        f"{found[largest][1] / 1e6:.0f} MB at most ({largest}); answers {codes}",
        flush=True,
    )


def serve(pictures: list[Path]) -> None:
    """Send every picture to a service, ask for its health meanwhile, and end it while it decodes the slowest one."""
    waits, peaks = [0.0], dict[int, int]()
    with service() as (address, process), ThreadPoolExecutor(8) as pool:

        def post(picture: Path) -> tuple[float, int, int]:
            started = time.monotonic()
            answer = pool.submit(status_of, f"{address}/v1/captions", picture.read_bytes())
            most = 0
            while not answer.done():
                most = max(most, sum(memory(number, "VmRSS") for number in (process.pid, *children(process.pid))))
                asked = time.monotonic()
                status_of(f"{address}/healthz")
                waits.append(time.monotonic() - asked)
                time.sleep(0.1)
            peaks.update({number: memory(number) for number in (process.pid, *children(process.pid))})
            return time.monotonic() - started, most, answer.result()

        table("service (by the clock; all its processes at a time)", pictures, post)
        own = peaks.pop(process.pid)
        print(
            f"service: its own process {own / 1e6:.0f} MB at most, one that decodes {max(peaks.values()) / 1e6:.0f} MB"
        )
        print(f"service: /healthz answered within {max(waits):.2f} s")
        slow = next(picture for picture in pictures if picture.name == "scans_full.jpg").read_bytes()
        for _ in range(8):
            pool.submit(status_of, f"{address}/v1/captions", slow)
        time.sleep(3)
        started = time.monotonic()
        process.terminate()
        print(f"service: SIGTERM ended it, exit code {process.wait(120)}, after {time.monotonic() - started:.0f} s")


def status_of(address: str, data: bytes | None = None) -> int:
    """Send a request and return the status of the answer; 0: none."""
    try:
        headers = {"Content-Type": "application/octet-stream"}
        with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def main() -> None:
    """Make the pictures and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("mib", type=int, nargs="?", default=16)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow reads the Exif that it is to write
    with ProcessPoolExecutor(1) as pool:  # the memory of this process counts as that of the processes that it starts
        pictures = pool.submit(make, given.out, given.mib).result()
    table("Python", pictures, lambda picture: cost([sys.executable, "-c", PYTHON, str(picture)]))
    caption = [sys.executable, "-m", "im2sp", "caption", "-o", "/dev/null"]
    table("command line", pictures, lambda picture: cost([*caption, str(picture)]))
    serve(pictures)


if __name__ == "__main__":
    main()
