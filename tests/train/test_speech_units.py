"""Speech units: features, clusters and the choice of a layer."""

from __future__ import annotations

import numpy as np

from im2sp.train.speech_units import fit_clusters, mfcc_features, sample_features


def test_mfcc_has_a_row_for_every_frame() -> None:
    wave = np.sin(np.arange(3200) / 7).astype(np.float32)
    assert mfcc_features(wave).shape == (10, 39)
    assert np.isfinite(mfcc_features(np.zeros(320, np.float32))).all()


def test_clusters_are_the_nearest_centres_of_scaled_features() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 50)
    hubert = 100.0 * np.eye(4)[groups] + rng.normal(size=(200, 4))
    noise = rng.normal(size=(200, 3))
    clusters = fit_clusters(np.concatenate([hubert, noise], 1), 4, hubert_width=4, hubert_variance=20.0)
    found = clusters.assign(np.concatenate([hubert, noise], 1).astype(np.float32))
    assert len(clusters) == 4
    assert len({(group, unit) for group, unit in zip(groups.tolist(), found.tolist(), strict=True)}) == 4


def test_k_means_sees_some_minutes_of_random_clips() -> None:
    clips = [np.full(16_000, value, np.int16) for value in range(1, 100)]
    sample = sample_features(clips, lambda waveform: np.full((50, 2), waveform[0] * 32_768), 0.1, seed=1)
    assert len(sample) == 350  # whole clips, until 6 seconds are passed
    assert len(np.unique(sample)) == 7
