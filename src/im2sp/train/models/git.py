"""GIT decoder: image features and the tokens so far -> logits of the next token.

The arithmetic is that of `transformers.GitForCausalLM` (post-norm BERT layers, image tokens as a prefix;
docs/reference-formats.md); the forward pass differs in one thing: the image prefix, which never sees text,
runs once for all captions of a photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.train.models.saving import WEIGHTS, load_config, load_weights, save_model


@dataclass(frozen=True)
class GitDecoderConfig:
    """Sizes of a GIT decoder."""

    vocabulary_size: int
    image_width: int = 1280  # channels of an image feature
    width: int = 256
    layers: int = 4
    heads: int = 4
    feed_forward: int = 1024
    max_positions: int = 128
    dropout: float = 0.1
    image_dropout: float = 0.1
    layer_norm_eps: float = 1e-6
    image_norm_eps: float | None = None  # of the norm of image features; None for the same as all others
    tied: bool = True  # the output layer has the weights of the word embeddings, as in the reference checkpoints

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads


class Layer(nn.Module):
    """One post-norm transformer layer over an image part and a text part."""

    def __init__(self, config: GitDecoderConfig) -> None:
        super().__init__()
        self.heads, self.head_dim, self.dropout = config.heads, config.head_dim, config.dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.attention_output = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.intermediate = nn.Linear(config.width, config.feed_forward)
        self.output = nn.Linear(config.feed_forward, config.width)
        self.output_norm = nn.LayerNorm(config.width, config.layer_norm_eps)

    def split(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, heads, T, head_dim]."""
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual, norm, feed-forward, residual, norm; `attended` [B, heads, T, head_dim], x [B, T, width]."""
        return self.feed(x, attended.transpose(1, 2).flatten(2))

    def feed(self, x: Tensor, attended: Tensor) -> Tensor:
        """The same with the heads side by side: both [..., width]."""
        mixed = self.attention_output(attended)
        x = self.attention_norm(x + F.dropout(mixed, self.dropout, self.training))
        hidden = self.output(F.gelu(self.intermediate(x)))
        return self.output_norm(x + F.dropout(hidden, self.dropout, self.training))

    def image(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image tokens see each other: x [B, N, width] -> (x, keys, values [B, heads, N, head_dim])."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        return self.finish(x, F.scaled_dot_product_attention(query, key, value)), key, value

    def text(self, x: Tensor, image_key: Tensor, image_value: Tensor, mask: Tensor) -> Tensor:
        """Tokens see the whole image and earlier tokens: x [B, T, width], mask bool [T, N + T] (true = may look)."""
        key = torch.cat([image_key, self.split(self.key(x))], 2)
        value = torch.cat([image_value, self.split(self.value(x))], 2)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(self.split(self.query(x)), key, value, mask, dropout)
        return self.finish(x, attended)


class GitDecoder(nn.Module):
    """Image features -> prefix keys and values; tokens after them -> logits."""

    def __init__(self, config: GitDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.image_projection = nn.Linear(config.image_width, config.width)
        image_norm_eps = config.layer_norm_eps if config.image_norm_eps is None else config.image_norm_eps
        self.image_norm = nn.LayerNorm(config.width, image_norm_eps)
        self.word_embeddings = nn.Embedding(config.vocabulary_size, config.width)
        self.position_embeddings = nn.Embedding(config.max_positions, config.width)
        self.embedding_norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.output = nn.Linear(config.width, config.vocabulary_size)
        if config.tied:
            self.output.weight = self.word_embeddings.weight
        self.apply(_initialise)

    @property
    def stack(self) -> list[Layer]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Tokens int64 [B], all at one position int64 [1] -> what the first layer sees [B, width]."""
        x: Tensor = self.embedding_norm(self.word_embeddings(tokens) + self.position_embeddings(position))
        return x

    def image_tokens(self, features: Tensor) -> Tensor:
        """Image features [P, N, image_width] -> image tokens [P, N, width]."""
        tokens: Tensor = self.image_norm(
            self.image_projection(F.dropout(features, self.config.image_dropout, self.training))
        )
        return tokens

    def prefix(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What `image_tokens` takes -> keys and values [P, heads, image tokens, head_dim] of every layer."""
        x = self.image_tokens(features)
        pairs = []
        for layer in self.stack:
            x, key, value = layer.image(x)
            pairs.append((key, value))
        return pairs

    def forward(self, features: Tensor, tokens: Tensor, photo: Tensor) -> Tensor:
        """Logits of the next token at every position: float [B, T, vocabulary_size] from what `hidden` takes."""
        logits: Tensor = self.output(self.hidden(features, tokens, photo))
        return logits

    def hidden(self, features: Tensor, tokens: Tensor, photo: Tensor) -> Tensor:
        """What the output layer sees at every position.

        Args:
            features: what `prefix` takes, one row a photo.
            tokens: int64 [B, T], starting with BOS.
            photo: int64 [B], the row of `features` that each caption belongs to.

        Returns:
            float [B, T, width].
        """
        prefix = self.prefix(features)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding_norm(self.word_embeddings(tokens) + self.position_embeddings(positions))
        x = F.dropout(x, self.config.dropout, self.training)
        image_tokens = prefix[0][0].shape[2]
        causal = torch.ones(len(positions), len(positions), dtype=torch.bool, device=tokens.device).tril()
        mask = torch.cat([causal.new_ones(len(positions), image_tokens), causal], 1)
        for layer, (key, value) in zip(self.stack, prefix, strict=True):
            x = layer.text(x, key[photo], value[photo], mask)
        return x

    def transfer(self, other: GitDecoder) -> None:
        """Take everything from `other` that does not belong to its vocabulary (the paper's transfer, section 2.3).

        Where image features have another width than those of `other`, their projection and its norm stay new, as in the
        paper's model of image units.
        """
        own = self.state_dict()
        kept = ["word_embeddings.", "output."]
        if self.config.image_width != other.config.image_width:
            kept += ["image_projection.", "image_norm."]
        taken = {k: v for k, v in other.state_dict().items() if not k.startswith(tuple(kept))}
        rows = min(len(taken["position_embeddings.weight"]), len(own["position_embeddings.weight"]))
        positions = own["position_embeddings.weight"].clone()
        positions[:rows] = taken["position_embeddings.weight"][:rows]
        self.load_state_dict(own | taken | {"position_embeddings.weight": positions})

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        save_model(untied(self.state_dict(), self.config), self.config, folder)

    @classmethod
    def load(cls, folder: Path, **changes: float) -> GitDecoder:
        """Read what `save` wrote, in evaluation mode; `changes` override fields of the config (dropout, say)."""
        config = replace(load_config(folder, GitDecoderConfig), **changes)  # type: ignore[arg-type]
        return load_weights(cls(config), folder / WEIGHTS)


def untied(state: dict[str, Tensor], config: GitDecoderConfig) -> dict[str, Tensor]:
    """What is saved of a state: the output layer only where it is not the word embeddings once more."""
    return {name: value for name, value in state.items() if not (config.tied and name == "output.weight")}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class ImagePrefix(nn.Module):
    """Graph between a photo and the decoder, for export: what `backbone` takes -> prefix keys and values.

    Args:
        by_token: what `backbone` gives -> float32 [B, vocabulary_size], each an output of its own.
    """

    def __init__(self, backbone: nn.Module, decoder: GitDecoder, by_token: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.by_token = nn.ModuleList(by_token)

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """Pixels [B, 3, H, W] or image units [B, units] -> keys, values [layers, B, heads, N, head_dim]."""
        features = self.backbone(photos)
        pairs = self.decoder.prefix(features)
        prefix = torch.stack([key for key, _ in pairs]), torch.stack([value for _, value in pairs])
        return (*prefix, *(module(features) for module in self.by_token))


class DecoderStep(nn.Module):
    """Last token and cache -> logits, grown cache and attention over the image."""

    def __init__(self, decoder: GitDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        prefix_keys: Tensor,
        prefix_values: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step.

        Args:
            tokens: int64 [B], the last token of each sequence.
            position: int64 [1], its position (BOS stands at 0).
            prefix_keys, prefix_values: [layers, 1 or B, heads, N, head_dim].
            past_keys, past_values: [layers, B, heads, past, head_dim].

        Returns:
            logits [B, vocabulary]; keys, values [layers, B, heads, past + 1, head_dim]; attention [B, N], the mean
            over layers and heads of the share that each image token got.
        """
        model = self.decoder
        x = model.embed(tokens, position)[:, None]
        keys, values, shares = [], [], []
        image_tokens = prefix_keys.shape[3]
        for index, layer in enumerate(model.stack):
            key = torch.cat([past_keys[index], layer.split(layer.key(x))], 2)
            value = torch.cat([past_values[index], layer.split(layer.value(x))], 2)
            keys.append(key)
            values.append(value)
            query = layer.split(layer.query(x)) * layer.head_dim**-0.5
            # The prefix may have batch 1: it broadcasts over the beams instead of being copied.
            image_scores = query @ prefix_keys[index].transpose(-1, -2)
            scores = torch.cat([image_scores, query @ key.transpose(-1, -2)], -1)
            weights = scores.softmax(-1)
            image_weights, own_weights = weights[..., :image_tokens], weights[..., image_tokens:]
            attended = image_weights @ prefix_values[index] + own_weights @ value
            shares.append(image_weights.mean(1)[:, 0])
            x = layer.finish(x, attended)
        attention = torch.stack(shares).mean(0)
        return model.output(x[:, 0]), torch.stack(keys), torch.stack(values), attention


class CachedDecoderStep(nn.Module):
    """Graph `decoder`: the same step for a cache that stays where it is, for export.

    The caller keeps keys and values of each layer in arrays of their own, with room at their end, and writes into
    them what comes out. Nothing of a size that grows with the sentence is copied, and keys lie as products need them.
    """

    def __init__(self, decoder: GitDecoder, image_tokens: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.image_tokens = image_tokens
        self.projections = nn.ModuleList(_projection(layer) for layer in decoder.stack)

    def forward(self, tokens: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step.

        Args:
            tokens: int64 [B], the last token of each sequence.
            position: int64 [1], its position (BOS stands at 0): so many places of the past count.
            caches: for every layer prefix keys [heads, head_dim, N] and values [heads, N, head_dim], past keys
                [B, heads, head_dim, capacity] and values [B, heads, capacity, head_dim].

        Returns:
            logits [B, vocabulary]; keys, values of these tokens [layers, B, heads, 1, head_dim]; attention [B, N] as
            DecoderStep gives it.
        """
        model, heads, dim = self.decoder, self.decoder.config.heads, self.decoder.config.head_dim
        x = model.embed(tokens, position)
        places = torch.arange(caches[2].shape[-1], device=x.device)
        unseen = torch.where(places < position, 0.0, -torch.inf)
        keys, values, shares = [], [], []
        for index, (layer, projection) in enumerate(zip(model.stack, self.projections, strict=True)):
            image_key, image_value, past_key, past_value = caches[4 * index : 4 * index + 4]
            # Shapes without the batch in them: the traced graph need not work them out at every step.
            query, key, value = projection(x).reshape(-1, 3, heads, 1, dim).unbind(1)
            # All hypotheses are the rows of one product with the image.
            image_scores = (query.reshape(-1, heads, dim).transpose(0, 1) @ image_key).transpose(0, 1)
            own_score = (query * key).sum(-1, keepdim=True)
            past_scores = query @ past_key + unseen
            scores = [image_scores.reshape(-1, heads, 1, self.image_tokens), past_scores, own_score]
            weights = torch.cat(scores, -1).softmax(-1)
            image_weights = weights[..., : self.image_tokens].reshape(-1, heads, self.image_tokens)
            of_image = (image_weights.transpose(0, 1) @ image_value).transpose(0, 1).reshape(-1, heads * dim)
            of_past = weights[..., self.image_tokens : -1] @ past_value + weights[..., -1:] * value
            x = layer.feed(x, of_image + of_past.reshape(-1, heads * dim))
            keys.append(key)
            values.append(value)
            shares.append(image_weights.mean(1))
        return model.output(x), torch.stack(keys), torch.stack(values), torch.stack(shares).mean(0)


def _projection(layer: Layer) -> nn.Linear:
    """Query, key and value of a layer as one product.

    The scale of the scores is in the weights of the query: a product that scales by itself is slow in onnxruntime.
    """
    scale = layer.head_dim**-0.5
    parts = (layer.query.weight * scale, layer.key.weight, layer.value.weight)
    biases = (layer.query.bias * scale, layer.key.bias, layer.value.bias)
    width = layer.query.in_features
    joined = nn.Linear(width, 3 * width)
    joined.load_state_dict({"weight": torch.cat(parts), "bias": torch.cat(biases)})
    return joined
