"""A pre-trained encoder small enough for a test: BERT with random weights, saved as `transformers` saves it."""

from collections.abc import Iterable
from pathlib import Path

from models.text.wordpiece import basic_words


def save_tiny_encoder(folder: Path, texts: Iterable[str], dimensions: int = 32) -> Path:
    """Two layers, the words of `texts` and single letters as pieces, mean pooling."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(1)
    words = sorted({word for text in texts for word in basic_words(text)})
    letters = [f"{before}{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789" for before in ("", "##")]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(w for w in words if len(w) > 1)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=dimensions,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dimensions,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder
