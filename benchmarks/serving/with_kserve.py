"""KServe's Python server: one process, a thread per core, each with an engine of its own.

Its REST takes neither a raw image nor a form, and a binary tensor of files is a 500 in 0.21.0: it makes text of each
file, and only UTF-8 is text. What is left is base64 in the JSON of the Open Inference Protocol; numbers go back as a
binary tensor. More workers than one would serve REST alone: its gRPC is in the main process.
"""

import asyncio
import base64
import os
import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from same import Same

CORES = int(os.environ["BENCH_CORES"])


class Embeddings(Model):
    """The embedding of the one file of the input `image`."""

    def __init__(self) -> None:
        super().__init__("embeddings")
        self._pool = ThreadPoolExecutor(CORES)
        self._engines: queue.SimpleQueue[Same] = queue.SimpleQueue()
        for _ in range(CORES):
            self._engines.put(Same(os.environ["BENCH_RELEASE"], os.environ["BENCH_ENGINE"]))
        self.ready = True

    async def predict(self, payload: InferRequest, *_: object) -> InferResponse:
        """Answered by whichever engine is free; there are as many as threads."""
        [content] = payload.inputs[0].as_numpy().reshape(-1)
        content = base64.b64decode(content) if isinstance(content, str) else content  # bytes over gRPC
        found = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, content)
        values = np.frombuffer(found, np.float32)[None]
        output = InferOutput("embedding", list(values.shape), "FP32")
        output.set_data_from_numpy(values, binary_data=True)
        return InferResponse(payload.id or "1", "embeddings", [output], use_binary_outputs=True)

    def _answer(self, content: bytes) -> bytes:
        engine = self._engines.get()
        try:
            return engine(content)
        finally:
            self._engines.put(engine)


if __name__ == "__main__":
    ModelServer(http_port=int(os.environ["BENCH_PORT"]), grpc_port=int(os.environ["BENCH_GRPC_PORT"])).start(
        [Embeddings()]
    )
