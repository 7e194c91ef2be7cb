"""The container images that the components run in; docker/ builds them, one per extra.

Set `HILUM_REGISTRY` (with its final slash) when compiling for a cluster whose nodes pull from a registry.
"""

import os
from typing import Final

import hilum

_REGISTRY: Final = os.environ.get("HILUM_REGISTRY", "")

TRAIN: Final = f"{_REGISTRY}hilum-python-train:{hilum.__version__}"
AUDIT: Final = f"{_REGISTRY}hilum-python-audit:{hilum.__version__}"
