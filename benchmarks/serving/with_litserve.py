"""LitServe: a worker process per core. Its bodies are JSON or forms; a form is the cheaper one for an image."""

import os

import litserve
from fastapi import Response
from same import Same


class Embeddings(litserve.LitAPI):
    """The embedding of the field `request` of a form."""

    def setup(self, _: str) -> None:
        """Load the engine in the worker."""
        self.same = Same(os.environ["BENCH_RELEASE"], os.environ["BENCH_ENGINE"])

    def decode_request(self, request):
        """The bytes of the uploaded file."""
        return request["request"].file.read()

    def predict(self, content: bytes) -> bytes:
        """Its embedding."""
        return self.same(content)

    def encode_response(self, output: bytes) -> Response:
        """As bytes."""
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    litserve.LitServer(
        Embeddings(), accelerator="cpu", devices=1, workers_per_device=int(os.environ["BENCH_CORES"])
    ).run(port=int(os.environ["BENCH_PORT"]), host="127.0.0.1", log_level="error", generate_client_file=False)
