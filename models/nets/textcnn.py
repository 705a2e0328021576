"""Text-CNN (Kim, 2014): filters over runs of words, the strongest answer of each filter, scores for each class."""

from typing import cast

import torch
from torch import Tensor, nn

from config.settings import TextCNN
from models.nets.base import Materials
from models.nets.network import WordNet


class Convolutions(nn.Module):
    """(n, T, D) word vectors, (n, T) mask → (n, filters · widths)."""

    def __init__(self, dimensions: int, settings: TextCNN) -> None:
        super().__init__()
        self.filters = nn.ModuleList(
            nn.Conv1d(dimensions, settings.filters, width, padding=width // 2) for width in settings.widths
        )
        self.drop_words = nn.Dropout(settings.dropout / 2)
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """See the class; padding changes nothing: vectors there are zero and no filter's answer counts there."""
        x = (self.drop_words(vectors) * mask.unsqueeze(2)).transpose(1, 2)
        away = (1.0 - mask).unsqueeze(1) * -1e4
        strongest = [torch.relu((conv(x)[:, :, : mask.shape[1]] + away).amax(dim=2)) for conv in self.filters]
        return cast(Tensor, self.drop(torch.cat(strongest, dim=1)))


def build(materials: Materials) -> WordNet:
    """The net of this kind, not yet fitted."""
    settings = materials.settings.models.textcnn
    return WordNet(materials, lambda size: Convolutions(size, settings), settings.filters * len(settings.widths))
