"""Plain FastAPI: one process, a thread per core, each with an engine of its own."""

import asyncio
import os
import queue
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request, Response
from same import Same

CORES = int(os.environ["BENCH_CORES"])
engines: "queue.SimpleQueue[Same]" = queue.SimpleQueue()
for _ in range(CORES):
    engines.put(Same(os.environ["BENCH_RELEASE"], os.environ["BENCH_ENGINE"]))
pool = ThreadPoolExecutor(CORES)
app = FastAPI()


def answer(content: bytes) -> bytes:
    """By whichever engine is free; there are as many as threads."""
    engine = engines.get()
    try:
        return engine(content)
    finally:
        engines.put(engine)


@app.post("/predict")
async def predict(request: Request) -> Response:
    """The embedding of the body."""
    content = await request.body()
    found = await asyncio.get_running_loop().run_in_executor(pool, answer, content)
    return Response(found, media_type="application/octet-stream")


@app.get("/ready")
def ready() -> dict[str, bool]:
    """It is."""
    return {"ready": True}
