"""A minimal KServe model on torch, as it would be written in an afternoon: same net, same encoder, same answers."""

import asyncio
import sys
from typing import Any

import torch
from kserve import Model, ModelServer

from benchmarks.peers.full_size import TORCH
from models.answer import Levels, answers
from models.bundle import Bundle


class TorchModel(Model):  # type: ignore[misc]
    """The bundle's answer from torch logits; the work runs in a thread, as the event loop asks for."""

    def __init__(self, folder: str) -> None:
        super().__init__("hscode")
        torch.set_num_threads(1)
        self.bundle = Bundle.load(folder)
        self.levels = Levels(self.bundle.classes, self.bundle.vague)
        self.net = torch.jit.load(f"{folder}/{TORCH}").eval()
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """As KServe asks for it."""
        return {"predictions": await asyncio.to_thread(self.answer, payload["instances"])}

    def answer(self, texts: list[str]) -> list[dict[str, Any]]:
        """Prediction objects."""
        bundle = self.bundle
        with torch.inference_mode():
            ids = torch.from_numpy(bundle.encoder.encode(texts)["ids"])
            p = torch.softmax(self.net(ids) / bundle.temperature, dim=1).numpy()
        return answers(self.levels, p, bundle.thresholds, bundle.texts, 6, 5, bundle.informative(texts))


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, access_log_format=None).start([TorchModel(sys.argv[2])])
