"""DNN on averaged embeddings: a deep averaging network (Iyyer et al., 2015)."""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from config.settings import DNN
from models.nets.base import Materials
from models.nets.network import WordNet, masked_mean


class Averaged(nn.Module):
    """(n, T, D) word vectors, (n, T) mask → (n, width). In training whole words are left out of the average."""

    def __init__(self, dimensions: int, settings: DNN) -> None:
        super().__init__()
        sizes = [dimensions, *[settings.width] * settings.layers]
        self.word_dropout = settings.word_dropout
        self.layers = nn.Sequential(
            *(
                layer
                for before, after in pairwise(sizes)
                for layer in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(settings.dropout))
            )
        )

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        if self.training:
            mask = mask * (torch.rand_like(mask) >= self.word_dropout)
        return cast(Tensor, self.layers(masked_mean(vectors, mask)))


def build(materials: Materials) -> WordNet:
    """The net of this kind, not yet fitted."""
    settings = materials.settings.models.dnn
    return WordNet(materials, lambda size: Averaged(size, settings), settings.width)
