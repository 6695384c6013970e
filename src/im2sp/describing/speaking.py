"""A document in, speech for each image that lacks a description out; on record, so that a run can go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from im2sp.batch import Speaker, Voice
from im2sp.describing.documents import Document, DocumentImage
from im2sp.describing.report import Entry
from im2sp.errors import ImageError
from im2sp.journal import Journal


def speak_document(document: Document, journal: Journal, voice: Voice) -> Iterator[Entry]:
    """What became of each image, in order. An image that stands in several places is spoken once.

    Images that the journal knows are not spoken again. Raises BundleError for a bundle that cannot be used,
    OutputError when the folder cannot be written, DocumentError when the document cannot be read further.
    """
    speaking = _Speaking(journal, voice)
    for image in document.images:
        if image.key is None:
            yield Entry(image.page, image.line, image.source, image.state, image.text, error=image.error)
            continue
        error = speaking.speak(image, image.key)
        state, wav = ("failed", None) if error else ("spoken", journal.wav_for(image.key).name)
        yield Entry(image.page, image.line, image.source, state, wav=wav, error=error)


class _Speaking:
    def __init__(self, journal: Journal, voice: Voice) -> None:
        self._journal = journal
        self._voice = voice
        self._speaker: Speaker | None = None
        self._failed: dict[Path, str] = {}  # so that what stands in a page a thousand times fails once

    def speak(self, image: DocumentImage, key: Path) -> str | None:
        """Speak about an image unless that is on record; gives why it could not be done."""
        if key in self._failed or self._journal.is_spoken(key):
            return self._failed.get(key)
        if self._speaker is None:  # not before there is something to say
            self._speaker = Speaker(self._voice)
        assert image.read is not None
        try:
            outcome = self._speaker.speak(key, self._journal.wav_for(key), image=image.read())
        except ImageError as error:
            self._failed[key] = str(error)
            return str(error)
        if outcome.record is not None:
            self._journal.append(outcome.record)
        elif outcome.error is not None:
            self._failed[key] = outcome.error
        return outcome.error
