"""A small transformer encoder on the trained word vectors: each word reads all others; their mean and the strongest."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from config.settings import Transformer
from models.nets.base import Materials
from models.nets.network import WordNet, masked_mean


class Layer(nn.Module):
    """Attention and two dense layers, each before-normalised and added to its input (as in nanoGPT, without the causal
    mask)."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.normal_1, self.normal_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.read = nn.Linear(size, 3 * size)
        self.write = nn.Linear(size, size)
        self.dense = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, away: Tensor) -> Tensor:
        """(n, T, size) → (n, T, size); `away` (n, 1, 1, T) is added to the scores of what may not be read."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.read(self.normal_1(x)).chunk(3, dim=2)
        )
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5 + away
        mixed = (torch.softmax(scores, dim=3) @ value).transpose(1, 2).flatten(2)
        x = x + self.drop(self.write(mixed))
        return cast(Tensor, x + self.drop(self.dense(self.normal_2(x))))


class Reader(nn.Module):
    """(n, T, D) word vectors, (n, T) mask → (n, 2 · width)."""

    def __init__(self, dimensions: int, longest: int, settings: Transformer) -> None:
        super().__init__()
        self.enter = nn.Linear(dimensions, settings.width)
        self.place = nn.Parameter(torch.randn(longest, settings.width) * 0.02)
        self.layers = nn.ModuleList(
            Layer(settings.width, settings.heads, settings.dropout) for _ in range(settings.layers)
        )
        self.normal = nn.LayerNorm(settings.width)
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        x = self.drop(self.enter(vectors) + self.place[: mask.shape[1]])
        away = ((1.0 - mask) * -1e4).unsqueeze(1).unsqueeze(2)
        for layer in self.layers:
            x = layer(x, away)
        x = self.normal(x)
        strongest = functional.relu((x + (1.0 - mask).unsqueeze(2) * -1e4).amax(dim=1))
        return torch.cat([masked_mean(x, mask), strongest], dim=1)


def build(materials: Materials) -> WordNet:
    """The net of this kind, not yet fitted."""
    settings, longest = materials.settings.models.transformer, max(8, materials.settings.text.max_tokens)
    return WordNet(materials, lambda size: Reader(size, longest, settings), 2 * settings.width)
