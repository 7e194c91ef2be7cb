"""Which patients a share of the training data is: drawn once for everybody, whatever is fitted to them.

A draw puts the patients into an order by a hash of the seed, the draw's number and the patient's id, and a share takes
the first of them. So a draw depends on the patients and the seed only, never on the encoder, the label or the order of
rows; and the shares of one draw are nested: 1% of the patients are among the 10%. A curve then tells what more patients
add, with less noise than shares drawn anew would leave in it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.identity import digest_bytes, digest_json


@dataclass(frozen=True)
class Draw:
    """Some training patients.

    Attributes:
        fraction: Of the training patients.
        number: Of the draw, from 0.
        rows: Their training rows, ascending.
    """

    fraction: float
    number: int
    rows: NDArray[np.int64]


def draws(patients: pd.Series, train: NDArray[np.int64], fractions: Sequence[float], n: int, seed: int) -> list[Draw]:
    """Every draw of every share, smaller shares first; the whole is one draw, since there is one way to take it.

    Args:
        patients: Patient of every row.
        train: Numbers of the training rows.
        fractions: Shares of the training patients; at least one patient is drawn.
        n: Draws of each share below 1.
        seed: Another seed, other draws.
    """
    names = np.unique(patients.iloc[train].to_numpy(dtype=str))
    ranks = [pd.Series(_ranks(names, seed, number), index=names) for number in range(n)]
    own = patients.iloc[train].to_numpy(dtype=str)
    found = []
    for fraction in sorted(set(fractions)):
        count = max(1, math.floor(fraction * len(names) + 0.5))
        found += [
            Draw(fraction, number, train[ranks[number].loc[own].to_numpy() < count])
            for number in range(1 if count == len(names) else n)
        ]
    return found


def digest_of(found: Sequence[Draw], image_N: NDArray[np.int64]) -> str:
    """A name for these draws: equal where the same images were drawn in the same draws.

    Args:
        found: The draws.
        image_N: Number of each row's image in the dataset.
    """
    images = [np.sort(image_N[draw.rows]).astype("<i8").tobytes() for draw in found]
    return digest_json(
        [[draw.fraction, draw.number, digest_bytes(each)] for draw, each in zip(found, images, strict=True)]
    )


def _ranks(names: NDArray[np.str_], seed: int, number: int) -> NDArray[np.int64]:
    """The place of each patient in the order of one draw."""
    keys = [hashlib.blake2b(f"{seed}/{number}/{name}".encode(), digest_size=16).digest() for name in names]
    place = np.empty(len(names), dtype=np.int64)
    place[sorted(range(len(names)), key=lambda i: keys[i])] = np.arange(len(names))
    return place
