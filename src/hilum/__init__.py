"""hilum: medical images to fair, defensible embeddings.

A dataset revision goes in; a release comes out: an ONNX encoder with its pneumonia head, its evidence, and a server
that answers with both. See README.md for the way of the data.
"""

import os

# Every library's telemetry is off before any of them can be imported: ONNX Runtime >= 1.29 reports at import,
# Great Expectations, Evidently, DVC and huggingface_hub (under diffusers) when first used. setdefault would let an
# inherited value switch one on.
for _switch, _value in {
    "ORT_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}.items():
    os.environ[_switch] = _value

__version__ = "0.1.0"
