"""A bundle folder of config.json, SHA256SUMS, README.md and *.onnx in, a verified `Bundle` out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from im2sp.bundle.config import FORMAT_VERSION, BundleConfig, ImageUnitsConfig
from im2sp.errors import BundleError, reason
from im2sp.files import CHECKSUMS, format_checksums, open_regular, verify_checksums
from im2sp.schema import SchemaError, parse

CONFIG = "config.json"
CONFIG_LIMIT = 4 * 2**20  # bytes; a vocabulary of 65536 subwords fits
_PACKAGED = Path(__file__).parents[1] / "bundles"


@dataclass(frozen=True)
class Bundle:
    """A folder whose checksums and config have been verified."""

    folder: Path
    config: BundleConfig
    checksums: Mapping[str, str]  # {relative path: hexadecimal SHA-256}

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Verify SHA256SUMS, then config.json. Raises BundleError, one sentence, for anything wrong."""
        if not folder.is_dir():
            raise BundleError(f"there is no bundle folder {folder}: give one that holds {CONFIG} and {CHECKSUMS}")
        checksums = verify_checksums(folder)
        present = {path.name for kind in ("onnx", "data") for path in folder.glob(f"*.{kind}")} | {CONFIG}
        if unlisted := sorted(present - set(checksums)):
            name = unlisted[0] if unlisted[0].isprintable() else ascii(unlisted[0])  # it may be no Unicode
            raise BundleError(f"{name} is not in {CHECKSUMS} of the bundle {folder}: get the bundle again")
        config = _read_config(folder / CONFIG)
        for graph in config.graphs:
            if f"{graph}.onnx" not in checksums:
                raise BundleError(f"{graph}.onnx is missing from the bundle {folder}: get the bundle again")
        if config.image_units and config.image_units.checksum != tokenizer_checksum(checksums):
            raise BundleError(
                f"image_tokenizer.onnx of the bundle {folder} is not the one that config.json names by its checksum: "
                "export the bundle again"
            )
        return cls(folder, config, checksums)

    @property
    def image_tokenizer(self) -> ImageUnitsConfig:
        """The image tokenizer of this bundle. Raises BundleError when it has none."""
        if self.config.image_units is None:
            raise BundleError(f"the bundle {self.folder} has no image units: use a bundle that has them")
        return self.config.image_units

    @property
    def made_by(self) -> str:
        """Who made this bundle, by where it lies: only the package and the hub know. It is code to be trusted."""
        if self.folder.parent == _PACKAGED:
            return "the im2sp project: it comes with this package"
        if hub := re.search(r"/models--(\w[\w.-]*?)--(\w[\w.-]*)/snapshots/\w+$", self.folder.as_posix()):
            return f"{hub[1]} on the hub, as {hub[1]}/{hub[2]}"
        return "unknown: trust it as far as the one who gave you this folder"


def tokenizer_checksum(checksums: Mapping[str, str]) -> str:
    """Checksum of the image tokenizer with these checksums of files, which stands for the image units that it makes.

    That of its graph; where its weights lie beside it, that of the two lines which SHA256SUMS has for both.
    """
    graph, weights = "image_tokenizer.onnx", "image_tokenizer.onnx.data"
    if weights not in checksums:
        return checksums[graph]
    return hashlib.sha256(format_checksums({name: checksums[name] for name in (graph, weights)}).encode()).hexdigest()


def write_config(folder: Path, config: BundleConfig) -> Path:
    """Write `folder`/config.json; call `write_checksums` after the last file of the bundle is in place.

    Raises BundleError for values that `Bundle.load` would refuse, which Python does not check when it makes a config.
    """
    path = folder / CONFIG
    values = _without_none(msgspec.to_builtins(config))
    lines = (
        f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"
        for name, value in values.items()
    )
    text = "{\n" + ",\n".join(lines) + "\n}"  # a line a section: the vocabulary is long
    try:
        parse(text.encode(), BundleConfig)
    except SchemaError as error:
        raise BundleError(f"{path} cannot be written, as its values would be refused ({error})") from error
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _without_none(values: Any) -> Any:
    """Leave out fields that are None, at every level."""
    if not isinstance(values, dict):
        return values
    return {name: _without_none(value) for name, value in values.items() if value is not None}


def find_bundle(name_or_dir: str | Path, revision: str | None = None) -> Path:
    """Find the folder of a packaged bundle, of a folder, or of `owner/name[@revision]` on the hub, in this order.

    A `Path` is a folder only. A bundle on the hub is fetched, or taken from its cache (`im2sp.hub`). Raises BundleError
    when it is none of them or cannot be fetched.
    """
    here = _local_folder(name_or_dir)
    if here is not None:
        if revision:
            raise BundleError(f"{here} is a folder of this machine, which has no revision {revision!r}: leave it out")
        return here
    from im2sp.hub import HubId, fetch_bundle

    hub_id = HubId.parse(str(name_or_dir), revision)
    if hub_id is not None:
        return fetch_bundle(hub_id)
    names = sorted(path.name for path in _PACKAGED.glob("[!_.]*") if path.is_dir())
    raise BundleError(
        f"there is no bundle {name_or_dir!r}: give a bundle folder, one of the packaged names "
        f"({', '.join(names) or 'none is installed'}) or owner/name of one on the hub"
    )


def _local_folder(name_or_dir: str | Path) -> Path | None:
    """Return the folder on this machine, if there is one of that name."""
    if isinstance(name_or_dir, Path):
        return name_or_dir
    if re.fullmatch(r"\w[\w.-]*", name_or_dir) and (_PACKAGED / name_or_dir).is_dir():
        return _PACKAGED / name_or_dir
    return Path(name_or_dir) if name_or_dir and Path(name_or_dir).is_dir() else None


def _read_config(path: Path) -> BundleConfig:
    try:
        with open_regular(path, CONFIG_LIMIT) as file:
            text = file.read(CONFIG_LIMIT)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {reason(error)}") from error
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # `parse` says what is wrong
        found = msgspec.json.decode(text, type=_AnyFormat).format_version
        if found != FORMAT_VERSION:  # before the fields, which in other formats are no mistakes
            advice = "upgrade im2sp" if found > FORMAT_VERSION else "export the bundle again"
            raise BundleError(f"{path} has format version {found} but this im2sp reads {FORMAT_VERSION}: {advice}")
    try:
        return parse(text, BundleConfig)
    except SchemaError as error:
        raise BundleError(f"{path} is not a valid config ({error}): get the bundle again") from error


class _AnyFormat(msgspec.Struct):
    """The one field that every format has."""

    format_version: int = FORMAT_VERSION
