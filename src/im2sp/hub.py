"""Bundles on the hub: `owner/name[@revision]` in; a folder in huggingface_hub's cache, to be verified, out.

Only files that a bundle is made of are fetched, and nothing before their sizes are known. With the extra `hub`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

from im2sp.errors import BundleError, Im2SpError, reason
from im2sp.files import CHECKSUMS
from im2sp.installing import install_command

FILES = ("config.json", CHECKSUMS, "README.md", "*.onnx", "*.data")  # `.data`: weights outside of their graph
ELSEWHERE = ("*/*",)  # a bundle has no folders
SIZE_LIMIT = 8 * 2**30  # bytes of a whole bundle; the full-size model takes 3 GB
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may do this"

_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)


@dataclass(frozen=True)
class HubId:
    """A bundle on the hub."""

    repository: str  # owner/name
    revision: str | None = None  # branch, tag or commit; None: the newest of the main branch

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> Self | None:
        """Parse `owner/name[@revision]`; return None where the text has another form.

        Raises BundleError for two revisions.
        """
        match = _HUB_ID.fullmatch(text)
        if match is None:
            return None
        if match["revision"] and revision:
            raise BundleError(f"{text!r} and revision {revision!r} name a revision each: give one of them")
        return cls(match["repository"], match["revision"] or revision)

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def fetch_bundle(name: HubId) -> Path:
    """Return the folder of that bundle in the cache, and fetch what is not there yet.

    With HF_HUB_OFFLINE=1 nothing is asked of the hub, and the cache has it or not. Raises BundleError when the library
    is missing, the hub does not answer or has no such repository or revision, and for a repository that is no bundle
    or larger than SIZE_LIMIT.
    """
    with hub_errors(name, f"there is no folder {str(name)!r}, and "):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            found = HfApi().model_info(name.repository, revision=name.revision, files_metadata=True)
        except OfflineModeIsEnabled:
            return _snapshot(name, local_files_only=True)
        check_sizes(str(name), {file.rfilename: file.size for file in found.siblings or ()})
        folder = _snapshot(name)
        if folder.name != found.sha:
            raise BundleError(f"{name} was changed on the hub while it was fetched: run again")
        return folder


def _snapshot(name: HubId, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name.repository,
            revision=name.revision,
            allow_patterns=list(FILES),
            ignore_patterns=list(ELSEWHERE),
            local_files_only=local_files_only,
        )
    )


def bundle_files(names: Iterable[str]) -> list[str]:
    """Return those of the names that files of a bundle can have."""
    return [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in FILES)]


def check_sizes(name: str, sizes: Mapping[str, int | None]) -> None:
    """Check all files of a repository {name: bytes}. Raises BundleError unless they are a bundle within SIZE_LIMIT."""
    parts = {file: sizes[file] for file in bundle_files(sizes)}
    for needed in ("config.json", CHECKSUMS):
        if needed not in parts:
            raise BundleError(f"{name} is not an im2sp bundle: it has no {needed}")
    if unknown := sorted(file for file, size in parts.items() if size is None):
        raise BundleError(f"the hub does not say how large {unknown[0]} of {name} is: download it and give its folder")
    total = sum(size for size in parts.values() if size is not None)
    if total > SIZE_LIMIT:
        raise BundleError(
            f"{name} has {total / 2**30:.1f} GB, where im2sp moves {SIZE_LIMIT >> 30} GB at most through the hub: "
            "copy it by other means and give its folder"
        )


@contextmanager
def hub_errors(name: HubId, before: str = "") -> Iterator[None]:
    """Turn whatever goes wrong in a block that calls the hub into a BundleError of one sentence.

    `before`: how that sentence begins where nothing of that name was found.
    """
    try:
        import huggingface_hub.errors
    except ImportError as error:
        raise BundleError(
            f"{before}huggingface_hub, which asks the hub for {name}, is not installed: {install_command('hub')}"
        ) from error
    try:
        yield
    except Im2SpError:
        raise
    except huggingface_hub.errors.HfHubHTTPError as error:
        answer = " ".join((error.server_message or f"status {error.response.status_code}").split())[:200]
        advice = LOG_IN if error.response.status_code in (401, 403) else "try again later"
        refusal = f"the hub refused ({answer}) to serve {name}: {advice}"
        raise BundleError(_sentence(error, name, before) or refusal) from error
    except Exception as error:  # also classes of its HTTP client, which has changed before
        raise BundleError(_sentence(error, name, before) or _failure(error, name)) from error


def _sentence(error: Exception, name: HubId, before: str) -> str | None:
    """Return the sentence for an error that says what is wrong with the name."""
    sentences = {  # by class, the most specific first
        "GatedRepoError": f"{name.repository} is open to those only whom its owner admits: ask on its page on the hub, "
        f"then {LOG_IN}",
        "RepositoryNotFoundError": f"{before}the hub has no repository {name.repository}, or not for you: check the "
        f"spelling; if it is private, {LOG_IN}",
        "RevisionNotFoundError": f"{name.repository} has no revision {name.revision or 'main'!r} on the hub: give a "
        "branch, a tag or a whole commit hash",
        "LocalEntryNotFoundError": f"{name} has not been fetched to this machine, or not all of it: run once with the "
        "hub within reach and without HF_HUB_OFFLINE",
        "HFValidationError": f"{name} cannot be a repository: {reason(error)}",
    }
    classes = {kind.__name__ for kind in type(error).__mro__}
    return next((sentence for kind, sentence in sentences.items() if kind in classes), None)


def _failure(error: Exception, name: HubId) -> str:
    if isinstance(error, OSError):
        return f"{name} could not be stored: {reason(error)}"
    return (
        f"the hub does not answer about {name} ({reason(error)}): try again later, or set HF_HUB_OFFLINE=1 to use "
        "what was fetched before"
    )
