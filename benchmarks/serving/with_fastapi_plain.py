"""FastAPI as its documentation shows it: a function, an uploaded file, and one engine on all cores for all calls."""

import contextlib
import os
import threading

from fastapi import FastAPI, Response, UploadFile
from same import Same

ENGINE = os.environ["BENCH_ENGINE"]
same = Same(os.environ["BENCH_RELEASE"], ENGINE, int(os.environ["BENCH_CORES"]))
# FastAPI calls functions from several threads. They may share ONNX Runtime's session, but not OpenVINO's request.
busy: contextlib.AbstractContextManager[object] = (
    threading.Lock() if ENGINE.startswith("openvino") else contextlib.nullcontext()
)
app = FastAPI()


@app.post("/predict")
def predict(request: UploadFile) -> Response:
    """The embedding of the file."""
    image_SS = same.prepared(request.file.read())
    with busy:
        found = same.embedded(image_SS)
    return Response(found, media_type="application/octet-stream")


@app.get("/ready")
def ready() -> dict[str, bool]:
    """It is."""
    return {"ready": True}
