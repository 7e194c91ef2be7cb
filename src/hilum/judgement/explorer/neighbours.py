"""Who lies next to whom in an embedding: nearest neighbours, near-identical images, images far from all others.

Legend: N images, D width of the embedding, K neighbours of each, B images of a block.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hilum.errors import DatasetError
from hilum.progress import bar

Metric = Literal["euclidean", "cosine"]

BLOCK_BYTES: Final = 128 * 2**20  # of one block's float32 distances to all images
STRIDES: Final = 64  # images per class of `_smallest`
SPARE: Final = 4  # candidates beyond K that are measured exactly, since float32 may swap near ties
NEAR_IDENTICAL: Final = 0.1  # of the median distance to the nearest neighbour


@dataclass(frozen=True)
class Neighbours:
    """The K nearest others of each image, nearest first.

    Attributes:
        index_NK: Their numbers.
        distance_NK: How far they are: Euclidean, or 1 - cosine.
    """

    index_NK: NDArray[np.int64]
    distance_NK: NDArray[np.float64]


@dataclass(frozen=True)
class Alike:
    """Images that are near-identical, or the same pixels.

    Attributes:
        members: Numbers of the images, ascending.
        same_pixels: All have the same pixels.
        n_patients: How many patients they are of; more than one is a leak, or a patient under two ids.
        splits: Which splits they lie in; more than one makes a test score too good.
    """

    members: tuple[int, ...]
    same_pixels: bool
    n_patients: int
    splits: tuple[str, ...]


def standardised(z_ND: NDArray[Any]) -> NDArray[np.float64]:
    """Each dimension with mean 0 and standard deviation 1; a constant one becomes 0."""
    z_ND = np.asarray(z_ND, dtype=np.float64)
    spread_D = z_ND.std(axis=0)
    return np.asarray((z_ND - z_ND.mean(axis=0)) / np.where(spread_D > 0, spread_D, 1.0))


def nearest(z_ND: NDArray[Any], k: int, metric: Metric = "euclidean") -> Neighbours:
    """The K nearest others of each embedding, by comparing all pairs, block by block.

    Exact: distances are ranked in float32, and those of the first K + 4 measured again in float64 from the differences,
    so that equal embeddings are exactly 0 apart. Ties go to the lower number among these.

    Args:
        z_ND: Embeddings, (N, D).
        k: How many; N - 1 where there are fewer others.
        metric: `euclidean` on standardised dimensions, which is what the map is made of; `cosine` on the vectors as
            they are, 1 - cos; a vector of zeros is 1 away from all others.

    Raises:
        DatasetError: There are fewer than two embeddings.
    """
    n = len(z_ND)
    if n < 2:
        raise DatasetError(f"neighbours need at least 2 images, not {n}")
    x_ND = standardised(z_ND) if metric == "euclidean" else _directions(np.asarray(z_ND, dtype=np.float64))
    k, taken = min(k, n - 1), min(k + SPARE, n - 1)
    x32_ND = np.ascontiguousarray(x_ND, dtype=np.float32)
    half_N = 0.5 * np.einsum("nd,nd->n", x32_ND, x32_ND)
    index_NK = np.empty((n, k), dtype=np.int64)
    distance_NK = np.empty((n, k))
    block = max(1, BLOCK_BYTES // (4 * n))
    with bar("neighbours", total=n, unit="image") as shown:
        for start in range(0, n, block):
            own_B = np.arange(start, min(start + block, n))
            # |a - b|^2 / 2 without |a|^2 / 2, which is the same for a whole row.
            far_BN = half_N - x32_ND[own_B] @ x32_ND.T
            far_BN[np.arange(len(own_B)), own_B] = np.inf
            near_BT = np.sort(_smallest(far_BN, taken), axis=1)
            exact_BT = np.linalg.norm(x_ND[near_BT] - x_ND[own_B, None], axis=2)
            if metric == "cosine":  # of unit vectors: 1 - cos = |a - b|^2 / 2
                exact_BT = exact_BT**2 / 2
                zero_N = half_N == 0
                exact_BT[zero_N[near_BT] | zero_N[own_B, None]] = 1.0
            order_BK = np.argsort(exact_BT, axis=1, kind="stable")[:, :k]
            index_NK[own_B] = np.take_along_axis(near_BT, order_BK, axis=1)
            distance_NK[own_B] = np.take_along_axis(exact_BT, order_BK, axis=1)
            shown.update(len(own_B))
    return Neighbours(index_NK, distance_NK)


def _smallest(far_BN: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Columns of the `most` smallest values of each row, in no order.

    Columns c, c + W, c + 2 W, ... are a class. The smallest values lie in the classes with the smallest minima, so only
    those are searched; a minimum over classes costs a fraction of `argpartition` over everything.
    """
    n = far_BN.shape[1]
    width = n // STRIDES
    if width <= 2 * most:
        return np.argpartition(far_BN, most - 1, axis=1)[:, :most]
    whole = width * STRIDES
    least_BW = far_BN[:, :whole].reshape(-1, STRIDES, width).min(axis=1)
    classes_BM = np.argpartition(least_BW, most - 1, axis=1)[:, :most]
    columns_BJ = (classes_BM[:, :, None] + width * np.arange(STRIDES)).reshape(len(far_BN), -1)
    rest_BR = np.broadcast_to(np.arange(whole, n), (len(far_BN), n - whole))
    columns_BJ = np.concatenate([columns_BJ, rest_BR], axis=1)
    found_BM = np.argpartition(np.take_along_axis(far_BN, columns_BJ, axis=1), most - 1, axis=1)[:, :most]
    return np.take_along_axis(columns_BJ, found_BM, axis=1)


def _directions(z_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    length_N1 = np.linalg.norm(z_ND, axis=1, keepdims=True)
    return z_ND / np.where(length_N1 > 0, length_N1, 1.0)


def near_identical(found: Neighbours) -> float:
    """The distance up to which two images count as near-identical: a tenth of the median to the nearest neighbour.

    Relative, since an embedding has no unit; 0 where most images have an exact copy, so that only copies count then.
    """
    return NEAR_IDENTICAL * float(np.median(found.distance_NK[:, 0]))


def duplicates(found: Neighbours, table: pd.DataFrame) -> list[Alike]:
    """Groups of images that are near-identical or have the same pixels; chains of likeness make one group.

    A group is found through each image's K neighbours, so one of many more than K near copies may come in pieces.

    Args:
        found: Neighbours of the table's images.
        table: Manifest rows with `patient_id`, `split` and `pixel_digest`.

    Returns:
        Groups over two patients or two splits first, then larger ones first.
    """
    n = len(table)
    row_P, place_P = np.nonzero(found.distance_NK <= near_identical(found))
    pixels = pd.Series(pd.factorize(table["pixel_digest"])[0])
    first_N = pixels.groupby(pixels).transform(lambda same: same.index[0]).to_numpy()
    same_M = np.flatnonzero((pixels >= 0).to_numpy() & (first_N != np.arange(n)))
    ends = np.concatenate([found.index_NK[row_P, place_P], first_N[same_M]])
    starts = np.concatenate([row_P, same_M])
    graph = coo_array((np.ones(len(starts), dtype=np.int8), (starts, ends)), shape=(n, n))
    _, group_N = connected_components(graph, directed=False)
    sizes = np.bincount(group_N)
    order = np.argsort(group_N, kind="stable")
    pieces = np.split(order, np.cumsum(sizes)[:-1])
    groups = []
    for members in (piece for piece in pieces if len(piece) > 1):
        of = table.iloc[members]
        groups.append(
            Alike(
                members=tuple(int(member) for member in np.sort(members)),
                same_pixels=bool(of["pixel_digest"].notna().all() and of["pixel_digest"].nunique() == 1),
                n_patients=int(of["patient_id"].nunique()),
                splits=tuple(str(split) for split in sorted(of["split"].dropna().unique())),
            )
        )
    return sorted(groups, key=lambda one: (one.n_patients < 2, len(one.splits) < 2, -len(one.members), one.members))


def outliers(found: Neighbours, most: int) -> NDArray[np.int64]:
    """Numbers of the images farthest from their K-th neighbour, farthest first (Ramaswamy, Rastogi & Shim 2000)."""
    return np.argsort(-found.distance_NK[:, -1], kind="stable")[:most]
