"""Part of stage `hubert` where a run goes on from a bundle: finer speech units on the bundle's own HuBERT.

Coarse units lose detail that the ear misses. Where sentences are said in regular units (`pronounce`), their subwords
are words, so more units make hardly longer sentences, and the reason for few of them is gone. HuBERT stays as it is;
k-means is fitted anew with more centres, and vocoder and duration predictor start from the parent's: the embedding of
each new unit is the mean of those of the parent's units that its frames had.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from im2sp.bundle import Bundle
from im2sp.errors import Im2SpError
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.convert.finished import read_speech_encoder, read_voice
from im2sp.train.data.speech_shards import as_floats, read_shard
from im2sp.train.models.speech_encoder import SpeechEncoder, whole_frames
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, save_vocoder
from im2sp.train.precision import products
from im2sp.train.stages.hubert import fit_clusters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RevoiceOptions:
    """Section [revoice]."""

    captions: int = 3000  # of people's, spoken for the vocoder to learn on with, beside those of the text captioner
    clusters: int = 500  # the new speech units
    context_share: float = 0.5  # spread of HuBERT features beside the cepstra they are clustered with
    minutes: float = 60.0  # of speech that k-means looks at, drawn from all shards alike
    seed: int = 0


def revoice(bundle: Bundle, speech: Path, options: RevoiceOptions, encoder: Path, start: Path) -> None:
    """Write the speech encoder with new units to `encoder`, and what their vocoder starts from to `start`.

    Does nothing where both are there.

    Raises:
        Im2SpError: there are no recordings, or the voice of the bundle cannot be read back.
    """
    if (encoder / "speech_encoder.json").is_file() and (start / "config.json").is_file():
        return
    old = read_speech_encoder(bundle)
    features = np.concatenate(list(_features(old, speech, options)))
    context = old.hubert.config.hidden_size
    clusters = fit_clusters(features, options.clusters, context, options.context_share, options.seed)
    new = SpeechEncoder(old.hubert, old.layer, old.padding, old.smoothing, old.cepstra is not None, clusters)
    with torch.inference_mode():
        before = old.nearest(torch.from_numpy(features)).numpy()
    together = np.zeros((len(clusters), old.units))
    np.add.at(together, (clusters.assign(features), before), 1)
    log.info("%d units in place of %d, from %d frames", len(clusters), old.units, len(features))
    vocoder, durations = read_voice(bundle)
    start.mkdir(parents=True, exist_ok=True)
    save_vocoder(*with_units(vocoder, durations, together), start)
    encoder.mkdir(parents=True, exist_ok=True)
    new.save(encoder)


def with_units(
    vocoder: UnitVocoder, durations: DurationPredictor, together: np.ndarray
) -> tuple[UnitVocoder, DurationPredictor]:
    """The same networks for other units.

    Args:
        together: [new units, old units], how many frames have one and the other.
    """
    share = torch.from_numpy(together / np.maximum(together.sum(1, keepdims=True), 1)).float()
    config = replace(vocoder.config, units=len(share))
    new = UnitVocoder(config), DurationPredictor(config)
    for model, old in zip(new, (vocoder, durations), strict=True):
        state = old.state_dict()
        model.load_state_dict(state | {"embedding.weight": share @ state["embedding.weight"]})
    return new


def _features(encoder: SpeechEncoder, speech: Path, options: RevoiceOptions) -> Iterator[np.ndarray]:
    """Features of the first recordings of every shard that is not held out, [frames, width] each."""
    shards = [path for path in sorted(speech.glob("*.parquet")) if not path.name.startswith("dev-")]
    if not shards:
        raise Im2SpError(f"{speech} holds no spoken captions to learn from: run the stages `speak` and `distil` first")
    enough = options.minutes * 60 * SAMPLE_RATE / len(shards)
    for path in shards:
        samples = 0
        for clip in read_shard(path):
            wave = torch.from_numpy(as_floats(whole_frames(clip.waveform)))
            with torch.inference_mode(), products("cpu"):
                features = encoder.features(wave[None])[0].float().numpy()
            yield features
            samples += len(clip.waveform)
            if samples >= enough:
                break
