"""What every server of the benchmark does with an image: hilum's own decoding and preparation, and one engine."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from hilum.data.anatomy.cohort import shots
from hilum.data.images import decode, preprocess
from hilum.delivery.card import ReleaseCard
from hilum.delivery.engines import open_engine
from hilum.delivery.predictor import infer


class Same:
    """Bytes of an image to bytes of its embedding; one engine, one thread."""

    def __init__(self, release: str, engine: str) -> None:
        folder = Path(release)
        self._numbers = ReleaseCard.load(folder).preprocessing
        self._engine = open_engine(engine, folder)

    def __call__(self, content: bytes) -> bytes:
        """The embedding of an image, little-endian float32."""
        image_SS = preprocess(decode(content).pixels, self._numbers)
        return infer(self._engine, image_SS[None]).z_BD.astype("<f4").tobytes()


def film(size: int = 1024) -> bytes:
    """A JPEG of `size` pixels, quality 90: a drawn film with the grain that real ones have."""
    drawn = next(shot.draw(size) for shot in shots(patients=20, seed=12) if shot.row["view"] == "PA")
    grain = np.random.default_rng(0).normal(0, 4, drawn.shape)
    stream = io.BytesIO()
    Image.fromarray(np.clip(drawn + grain, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
