"""Exit status 0 where every worker of every model is READY, as the management API says.

TorchServe's own /ping answers Healthy seconds after the start, before any worker is up, and for minutes while all fail.
"""

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

MANAGEMENT = "http://127.0.0.1:8081"
KEYS = Path("key_file.json")  # in the working directory; absent where a proxy checks the callers


def ask(path: str) -> Any:
    """What the management API answers."""
    headers = {}
    if KEYS.exists():
        headers["Authorization"] = f"Bearer {json.loads(KEYS.read_text())['management']['key']}"
    with urllib.request.urlopen(urllib.request.Request(MANAGEMENT + path, headers=headers), timeout=4) as answered:
        return json.load(answered)


def healthy() -> bool:
    """Whether there are models, and all of their workers are ready."""
    models = [model["modelName"] for model in ask("/models")["models"]]
    workers = [ask(f"/models/{model}")[0]["workers"] for model in models]
    return bool(workers) and all(some and all(one["status"] == "READY" for one in some) for some in workers)


if __name__ == "__main__":
    try:
        sys.exit(0 if healthy() else 1)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"not ready: {type(error).__name__}")
