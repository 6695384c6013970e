"""A bundle folder -> a repository on the hub, from which `Captioner.from_pretrained("owner/name")` reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from im2sp.bundle import Bundle, BundleConfig
from im2sp.errors import BundleError, Im2SpError
from im2sp.files import CHECKSUMS, MODEL_CARD, format_checksums
from im2sp.hub import FILES, HubId, bundle_files, check_sizes, hub_errors
from im2sp.onnx import Graphs

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

TAGS = ("im2sp", "image-to-speech", "speech-units", "onnx")
# What the hub knows by name; any other licence is a sentence of the card.
LICENCES = (
    "apache-2.0",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "mit",
)

_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n+", re.M | re.S)


@dataclass(frozen=True)
class Publication:
    """What is uploaded: {name in the repository: the file, or its text}; nothing else."""

    files: dict[str, Path | bytes]
    checksums: dict[str, str]  # {name: hexadecimal SHA-256}, of all but SHA256SUMS and the card

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: part.stat().st_size if isinstance(part, Path) else len(part) for name, part in self.files.items()}


def prepare(folder: Path) -> Publication:
    """Collect what is uploaded of a bundle folder, which stays as it is.

    The files go up unchanged, but for the model card, which gets the hub's metadata in front.

    Raises:
        BundleError: the bundle does not verify, its graphs do not fit its config, it lists files that are not fetched
            from the hub, or it is too large for the hub.
    """
    bundle = Bundle.load(folder)
    Graphs(bundle).check()
    if others := sorted(set(bundle.checksums) - set(bundle_files(bundle.checksums))):
        raise BundleError(
            f"{CHECKSUMS} of {folder} lists {others[0]}, which is not fetched from the hub ({', '.join(FILES)} are): "
            "move it away and leave its line out"
        )
    with hub_errors(HubId(str(folder))):
        card = _card(folder, bundle).encode()
    checksums = {name: digest for name, digest in bundle.checksums.items() if name != MODEL_CARD}
    files: dict[str, Path | bytes] = {name: folder / name for name in checksums}
    files |= {MODEL_CARD: card, CHECKSUMS: format_checksums(checksums).encode()}
    publication = Publication(files, checksums)
    check_sizes(str(folder), publication.sizes)
    return publication


def push_to_hub(
    folder: Path, repository: str, *, private: bool = False, message: str | None = None
) -> tuple[Publication, str]:
    """Upload a bundle as one commit; return what was uploaded and the hash of the commit.

    Files of a bundle that only the repository has are deleted there, or it would not verify; others stay.

    Args:
        repository: `owner/name`, made if it does not exist.

    Raises:
        BundleError: as `prepare`, or the hub refuses or does not answer.
    """
    hub_id = parse_repository(repository)
    publication = prepare(folder)
    with hub_errors(hub_id):
        from huggingface_hub import CommitOperationDelete, HfApi

        api = HfApi()
        additions = list(_additions(publication))
        api.create_repo(repository, private=private or None, exist_ok=True)
        gone = sorted(set(bundle_files(api.list_repo_files(repository))) - set(publication.files))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [*additions]
        operations += [CommitOperationDelete(name) for name in gone]
        done = api.create_commit(repository, operations, commit_message=message or f"Upload {folder.name}")
        return publication, str(done.oid)


def parse_repository(text: str) -> HubId:
    """Parse `owner/name`. Raises Im2SpError for anything else."""
    hub_id = HubId.parse(text)
    if hub_id is None or hub_id.revision:
        raise Im2SpError(f"{text!r} is not the name of a repository: give owner/name")
    return hub_id


def _additions(publication: Publication) -> Iterable[CommitOperationAdd]:
    """Yield the files, hashed once more as they are read: they must be what was verified."""
    from huggingface_hub import CommitOperationAdd

    for name, part in publication.files.items():
        operation = CommitOperationAdd(name, part)
        if operation.upload_info.sha256.hex() != publication.checksums.get(name, operation.upload_info.sha256.hex()):
            raise BundleError(f"{name} was changed while it was uploaded: verify it with im2sp info and run again")
        yield operation


def _card(folder: Path, bundle: Bundle) -> str:
    """The model card with the metadata for the hub in front, in place of any that it had."""
    config = bundle.config
    text = f"# {config.name} {config.version}\n\n{config.description}\n"
    if (folder / MODEL_CARD).is_file():
        try:
            text = (folder / MODEL_CARD).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{folder / MODEL_CARD} is not a text in UTF-8: write it again") from error
    return f"---\n{_metadata(config)}\n---\n\n{_FRONT_MATTER.sub('', text)}"


def _metadata(config: BundleConfig) -> str:
    from huggingface_hub import ModelCardData

    licence = config.license.lower()
    known = licence in LICENCES
    return ModelCardData(
        language=config.language if re.fullmatch("[a-z]{2,3}", config.language) else None,
        license=licence if known else "other",
        license_name=None if known else "see-model-card",
        library_name="im2sp",
        tags=list(TAGS),
    ).to_yaml()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="If the repository is new, only you see it.")
@click.option("--message", help="What is new, for the history.")
@click.option("--dry-run", is_flag=True, help="List what would be uploaded; ask nothing.")
def push(folder: Path, repository: str, private: bool, message: str | None, dry_run: bool) -> None:
    """Upload a bundle to a repository on the hub, from which im2sp --model OWNER/NAME reads it."""
    parse_repository(repository)
    if dry_run:
        publication, commit = prepare(folder), ""
    else:
        publication, commit = push_to_hub(folder, repository, private=private, message=message)
    for name, size in sorted(publication.sizes.items()):
        click.echo(f"{size:>13,} bytes  {name}")
    total = f"{sum(publication.sizes.values()):,} bytes in {len(publication.files)} files"
    click.echo(f"{total}, not uploaded (--dry-run)" if dry_run else f"{total} uploaded: {repository}@{commit}")
