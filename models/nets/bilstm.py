"""BiLSTM: words read forwards and backwards, the strongest state of each unit, scores for each class."""

from typing import cast

import torch
from torch import Tensor, nn

from config.settings import BiLSTM
from models.nets.base import Materials
from models.nets.network import WordNet


class BothWays(nn.Module):
    """(n, T, D) word vectors, (n, T) mask → (n, 2 · units)."""

    def __init__(self, dimensions: int, settings: BiLSTM) -> None:
        super().__init__()
        self.forwards = nn.LSTM(dimensions, settings.units, batch_first=True)
        self.backwards = nn.LSTM(dimensions, settings.units, batch_first=True)
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """See the class. Each text is turned round within its own length, so padding comes last both ways and what is
        read before it does not change with it."""
        vectors = self.drop(vectors)
        steps = torch.cumsum(torch.ones_like(mask), dim=1)
        turned = (mask.sum(dim=1, keepdim=True) - steps).clamp(min=0).to(torch.int64).unsqueeze(2)
        there = (self.forwards(vectors)[0], self.backwards(vectors.gather(1, turned.expand_as(vectors)))[0])
        away = (1.0 - mask).unsqueeze(2) * -1e4
        strongest = torch.cat([(states + away).amax(dim=1).clamp(min=-1.0) for states in there], dim=1)
        return cast(Tensor, self.drop(strongest))


def build(materials: Materials) -> WordNet:
    """The net of this kind, not yet fitted."""
    settings = materials.settings.models.bilstm
    return WordNet(materials, lambda size: BothWays(size, settings), 2 * settings.units)
