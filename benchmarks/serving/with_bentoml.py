"""BentoML: a worker process per core; the body is the image."""

import os
from pathlib import Path

import bentoml
from same import Same


@bentoml.service(workers=int(os.environ["BENCH_CORES"]), traffic={"timeout": 60})
class Embeddings:
    """The embedding of the body."""

    def __init__(self) -> None:
        self.same = Same(os.environ["BENCH_RELEASE"], os.environ["BENCH_ENGINE"])

    @bentoml.api(route="/predict")
    def predict(self, image: Path, /) -> bytes:
        """The bytes come as a file; read, answer."""
        return self.same(image.read_bytes())
