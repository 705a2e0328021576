"""The bundle behind LitServe: PORT BUNDLE BATCH WORKERS; its own batching is on where BATCH is above 1."""

import sys
from typing import Any

import litserve

from models.bundle import Bundle


class Api(litserve.LitAPI):  # type: ignore[misc]
    """LitServe's hooks around Bundle.answer."""

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(api_path="/v1/models/hscode:predict", **options)
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the bundle in the worker."""
        self.bundle = Bundle.load(self.folder)

    def decode_request(self, request: dict) -> list[str]:  # type: ignore[type-arg]
        """The request's texts."""
        texts: list[str] = request["instances"]
        return texts

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """Requests stay apart."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Answers to one request's texts, or to those of several requests."""
        if x and isinstance(x[0], list):
            flat = iter(self.bundle.answer([text for texts in x for text in texts]))
            return [[next(flat) for _ in texts] for texts in x]
        return self.bundle.answer(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Answers by request."""
        return output

    def encode_response(self, output: Any) -> Any:
        """The design's answer."""
        return {"predictions": output}


if __name__ == "__main__":
    batching = int(sys.argv[3])
    options = {"max_batch_size": batching, "batch_timeout": 0.002} if batching > 1 else {}
    server = litserve.LitServer(Api(sys.argv[2], **options), accelerator="cpu", workers_per_device=int(sys.argv[4]))
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", num_api_servers=1, generate_client_file=False, log_level="error"
    )
