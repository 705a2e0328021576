"""The smallest KServe model: gives back what it got. What any KServe predictor costs before it does anything."""

import sys
from typing import Any

from kserve import Model, ModelServer


class Echo(Model):  # type: ignore[misc]
    """Answers v1 requests with their instances."""

    def __init__(self) -> None:
        super().__init__("hscode")
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """As KServe asks for it."""
        return {"predictions": payload["instances"]}


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, access_log_format=None).start([Echo()])
