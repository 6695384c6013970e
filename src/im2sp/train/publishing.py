"""A bundle folder -> a repository on the hub, from which `Captioner.from_pretrained("owner/name")` reads it."""

from __future__ import annotations

import re
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

Publication = dict[str, Path | bytes]  # {name in the repository: the file, or its text}

TAGS = ("im2sp", "image-to-speech", "speech-units", "onnx")
# What the hub knows by name; any other licence is a sentence of the card.
_LICENCES = re.compile(r"apache-2\.0|bsd-3-clause|cc-by(-nc)?(-sa)?-4\.0|cc0-1\.0|mit")

_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n+", re.M | re.S)


def prepare(folder: Path) -> Publication:
    """Collect what is uploaded of a bundle folder: its files, and the model card with the hub's metadata in front.

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
    checksums = {name: digest for name, digest in bundle.checksums.items() if name != MODEL_CARD}
    files: Publication = {name: folder / name for name in checksums}
    with hub_errors(HubId(str(folder))):
        files[MODEL_CARD] = _card(folder, bundle).encode()
    files[CHECKSUMS] = format_checksums(checksums).encode()
    check_sizes(str(folder), sizes_of(files))
    return files


def sizes_of(files: Publication) -> dict[str, int]:
    """Bytes of each file."""
    return {name: part.stat().st_size if isinstance(part, Path) else len(part) for name, part in files.items()}


def upload(files: Publication, repository: HubId, *, private: bool, message: str) -> str:
    """Upload a bundle as one commit to a repository, made if it does not exist; return the hash of the commit.

    Files of a bundle that only the repository has are deleted there, or it would not verify; others stay.

    Raises BundleError when the hub refuses or does not answer.
    """
    with hub_errors(repository):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api, name = HfApi(), repository.repository
        api.create_repo(name, private=private or None, exist_ok=True)
        gone = sorted(set(bundle_files(api.list_repo_files(name))) - set(files))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationDelete(path) for path in gone]
        operations += [CommitOperationAdd(path, part) for path, part in files.items()]
        return str(api.create_commit(name, operations, commit_message=message).oid)


def parse_repository(text: str) -> HubId:
    """Parse `owner/name`. Raises Im2SpError for anything else."""
    hub_id = HubId.parse(text)
    if hub_id is None or hub_id.revision:
        raise Im2SpError(f"{text!r} is not the name of a repository: give owner/name")
    return hub_id


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
    known = _LICENCES.fullmatch(licence)
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
    hub_id, files = parse_repository(repository), prepare(folder)
    commit = "" if dry_run else upload(files, hub_id, private=private, message=message or f"Upload {folder.name}")
    sizes = sizes_of(files)
    for name, size in sorted(sizes.items()):
        click.echo(f"{size:>13,} bytes  {name}")
    total = f"{sum(sizes.values()):,} bytes in {len(files)} files"
    click.echo(f"{total}, not uploaded (--dry-run)" if dry_run else f"{total} uploaded: {repository}@{commit}")
