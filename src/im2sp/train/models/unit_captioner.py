"""GIT decoder on image units: cells, the classifier's classes and likely words are its image tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.train.models.git import GitDecoder, GitDecoderConfig, untied
from im2sp.train.models.image_units import FLOOR
from im2sp.train.models.saving import WEIGHTS, load_config, save_model
from im2sp.train.models.tagger import Tagger

CLASS_SCALE = 0.25  # of log-probabilities of classes, whose floor is moved to 0
TAG_DROPOUT = 0.15  # tags that are left blank in training


@dataclass(frozen=True)
class TaggedUnits:
    """Photos as a captioner sees them: image units int64 [P, units], tags int64 and their scores [P, tags]."""

    units: Tensor
    tags: Tensor
    scores: Tensor


class UnitCaptioner(GitDecoder):
    """Image units int64 [P, units] in place of features: 1 + tags + cells image tokens.

    In training, `TaggedUnits` may take their place.

    Embeddings of tags are those of words, until `separate_tags` gives them a table of their own, for a decoder whose
    vocabulary is not words.

    Args:
        tagger: frozen, with the image units.
    """

    def __init__(self, config: GitDecoderConfig, tagger: Tagger) -> None:
        super().__init__(replace(config, image_width=tagger.image_units.config.width))
        self.tagger = tagger.eval().requires_grad_(False)
        width = config.width
        self.cell_positions = nn.Parameter(torch.zeros(tagger.image_units.config.cells, width))
        self.class_projection = nn.Linear(tagger.image_units.config.class_count, width)
        self.class_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.tag_type = nn.Parameter(torch.zeros(width))
        self.tag_score = nn.Parameter(torch.randn(width) * 0.02)
        self.tag_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.tag_embeddings = self.word_embeddings
        nn.init.normal_(self.class_projection.weight, std=0.02)

    def train(self, mode: bool = True) -> UnitCaptioner:
        """Set the mode of all but the tagger, which is frozen."""
        super().train(mode)
        self.tagger.eval()
        return self

    def separate_tags(self, words: int) -> None:
        """Give the tags an embedding table of their own, [words, width]."""
        self.tag_embeddings = nn.Embedding(words, self.config.width)
        nn.init.normal_(self.tag_embeddings.weight, std=0.02)

    def tagged(self, units: Tensor) -> TaggedUnits:
        """Find the tags of photos."""
        with torch.no_grad(), torch.autocast(units.device.type, enabled=False):
            return TaggedUnits(units, *self.tagger.tags(units))

    def image_tokens(self, photos: Tensor | TaggedUnits) -> Tensor:
        """Image units int64 [P, units] -> image tokens [P, 1 + tags + cells, width]."""
        drop = self.config.image_dropout
        seen = photos if isinstance(photos, TaggedUnits) else self.tagged(photos)
        with torch.no_grad(), torch.autocast(seen.units.device.type, enabled=False):
            cells, classes = self.tagger.image_units.embed(seen.units)
        cells = self.image_norm(self.image_projection(F.dropout(cells, drop, self.training)) + self.cell_positions)
        classes = F.dropout((classes - math.log(FLOOR)) * CLASS_SCALE, drop, self.training)
        classes = self.class_norm(self.class_projection(classes))
        embedded = self.tag_embeddings(seen.tags)
        if self.training:
            embedded = embedded * (torch.rand(seen.tags.shape, device=seen.tags.device) >= TAG_DROPOUT)[..., None]
        tagged = self.tag_norm(embedded + self.tag_type + seen.scores[..., None] * self.tag_score)
        return torch.cat([classes[:, None].to(tagged.dtype), tagged, cells.to(tagged.dtype)], 1)

    @torch.no_grad()
    def start_from(self, other: UnitCaptioner, words: Tensor, shares: Tensor) -> None:
        """Take what `other`, a captioner of words, knows; tokens that say a word start as that word (section 2.3).

        Args:
            words: int64 [vocabulary_size], the word of `other` that each token says; -1 for a token that says none.
            shares: float32 [vocabulary_size], how much of that word is said by this token.
        """
        self.separate_tags(other.config.vocabulary_size)
        self.transfer(other)
        said = words >= 0
        self.word_embeddings.weight[said] = other.word_embeddings.weight[words[said]]
        self.output.bias[said] = other.output.bias[words[said]] + shares[said].log()

    @torch.no_grad()
    def set_word_vectors(self, vectors: Tensor, class_gain: float = 3.0) -> None:
        """Start from word vectors [vocabulary_size, width]: embeddings of words, and of classes by their names."""
        self.word_embeddings.weight.copy_(vectors)
        tokens = self.tagger.class_tokens
        known = (tokens > 0)[..., None]
        names = (vectors[tokens] * known).sum(1) / known.sum(1).clamp(min=1)
        self.class_projection.weight.copy_(class_gain * names.T)

    @torch.no_grad()
    def compact(self, rank: int, photos: Tensor) -> Tensor:
        """Leave out what no photo needs: rows of words that are never tags, and small directions of the tagger.

        Args:
            rank: of the matrix that remains of the tagger's.
            photos: units int64 [P, units] that tell which directions these are.

        Returns:
            The words that are left, int64, in order: the tagger's token t is word `[t]` of them.
        """
        tagger = self.tagger
        used = torch.cat([tagger.word_tokens, tagger.class_tokens.flatten(), torch.zeros(1).long()]).unique()
        for tokens in (tagger.word_tokens, tagger.class_tokens):
            tokens.copy_(torch.searchsorted(used, tokens))
        tagger.config = replace(tagger.config, vocabulary_size=len(used))
        table = nn.Embedding(len(used), self.config.width)
        table.weight.copy_(self.tag_embeddings.weight[used])
        self.tag_embeddings = table
        tagger.factorise(rank, tagger.inputs(photos))
        return used

    def save(self, folder: Path) -> None:
        """Write `config.json`, `model.safetensors` and the folder `tagger`."""
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("tagger.")}
        if self.tag_embeddings is self.word_embeddings:
            del state["tag_embeddings.weight"]
        save_model(untied(state, self.config), self.config, folder)
        self.tagger.save(folder / "tagger")

    @classmethod
    def load(cls, folder: Path, **changes: float) -> UnitCaptioner:
        """Read what `save` wrote, in evaluation mode; `changes` override fields of the config (dropout, say)."""
        config = replace(load_config(folder, GitDecoderConfig), **changes)  # type: ignore[arg-type]
        model = cls(config, Tagger.load(folder / "tagger"))
        state = load_file(folder / WEIGHTS)
        if (table := state.get("tag_embeddings.weight")) is not None:
            model.separate_tags(len(table))
        model.load_state_dict(model.state_dict() | state)
        return model.eval()
