"""Bundles: a folder with the graphs, the config and the checksums of one model."""

from __future__ import annotations

from im2sp.bundle.config import (
    FORMAT_VERSION,
    SPECIAL_TOKENS,
    BundleConfig,
    ConfidenceConfig,
    DecoderConfig,
    DecodingDefaults,
    ImageConfig,
    ImageTokenizer,
    ImageUnitsConfig,
    PCAConfig,
    Pronunciations,
    Resampling,
    Signal,
    SpeechEncoderConfig,
    VocabularyConfig,
    VocoderConfig,
)
from im2sp.bundle.folder import (
    CONFIG,
    CONFIG_LIMIT,
    Bundle,
    find_bundle,
    tokenizer_checksum,
    write_config,
)
from im2sp.files import write_checksums

__all__ = [
    "CONFIG", "CONFIG_LIMIT", "FORMAT_VERSION", "SPECIAL_TOKENS", "Bundle", "BundleConfig", "ConfidenceConfig",
    "DecoderConfig", "DecodingDefaults", "ImageConfig", "ImageTokenizer", "ImageUnitsConfig", "PCAConfig",
    "Pronunciations", "Resampling", "Signal", "SpeechEncoderConfig", "VocabularyConfig", "VocoderConfig", "find_bundle",
    "tokenizer_checksum", "write_checksums", "write_config",
]  # fmt: skip
