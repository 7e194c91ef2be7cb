"""TorchServe handlers and settings; the work itself is in hilum.delivery.predictor."""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
