"""What every server of the benchmark does with an image: hilum's own decoding and preparation, and one engine."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hilum.data.anatomy.cohort import shots
from hilum.data.images import decode, preprocess
from hilum.delivery.card import ReleaseCard
from hilum.delivery.engines import open_engine
from hilum.delivery.predictor import infer


class Same:
    """Bytes of an image to bytes of its embedding; one engine, of one thread unless more are asked for."""

    def __init__(self, release: str, engine: str, threads: int = 1) -> None:
        folder = Path(release)
        self._numbers = ReleaseCard.load(folder).preprocessing
        self._engine = open_engine(engine, folder, threads)

    def __call__(self, content: bytes) -> bytes:
        """The embedding of an image, little-endian float32."""
        return self.embedded(self.prepared(content))

    def prepared(self, content: bytes) -> NDArray[np.uint8]:
        """The image that the graph takes: decoded and resized."""
        return preprocess(decode(content).pixels, self._numbers)

    def embedded(self, image_SS: NDArray[np.uint8]) -> bytes:
        """The graph's answer to it."""
        return infer(self._engine, image_SS[None]).z_BD.astype("<f4").tobytes()


def film(size: int = 1024, drawn_at: int = 384) -> bytes:
    """A JPEG of `size` pixels, quality 90, of about 290 KB: a drawn film, enlarged, with a little grain.

    Drawn at its full size it would have 670 KB, because its noise is drawn by the pixel: more than a film of a detector
    has, and then decoding is half of everything.
    """
    drawn = next(shot.draw(drawn_at) for shot in shots(patients=20, seed=12) if shot.row["view"] == "PA")
    film_HW = np.asarray(Image.fromarray(drawn).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    film_HW += np.random.default_rng(0).normal(0, 3, film_HW.shape)
    stream = io.BytesIO()
    Image.fromarray(np.clip(film_HW, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
