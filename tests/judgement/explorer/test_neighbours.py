"""Neighbours against all pairs compared one by one; duplicates and outliers that were planted."""

import numpy as np
import pandas as pd
import pytest

from hilum.errors import DatasetError
from hilum.judgement.explorer import neighbours


def euclidean(a, b):
    return float(np.sqrt(((a - b) ** 2).sum()))


def cosine(a, b):
    return 1 - float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("n", [10, 130, 1500])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_are_those_of_all_pairs(n, metric, monkeypatch):
    z = np.random.default_rng(n).normal(2.0, [1.0, 5.0, 0.1, 1.0], size=(n, 4)).astype(np.float32)
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 4 * n * 37)  # several blocks, the last one shorter
    found = neighbours.nearest(z, 5, metric)
    z = z.astype(float)
    compared, of = ((z - z.mean(axis=0)) / z.std(axis=0), euclidean) if metric == "euclidean" else (z, cosine)
    for i in range(0, n, max(1, n // 60)):
        row = sorted((of(compared[i], compared[j]), j) for j in range(n) if j != i)[:5]
        np.testing.assert_array_equal(found.index_NK[i], [j for _, j in row])
        np.testing.assert_allclose(found.distance_NK[i], [d for d, _ in row], rtol=1e-6, atol=1e-9)


def test_the_smallest_of_each_row_are_found_whichever_class_they_are_in():
    far = np.random.default_rng(0).normal(size=(20, 64 * 30 + 17)).astype(np.float32)
    far[0, -17:] = -10 - np.arange(17)  # all in the columns that belong to no class
    far[1, 5::30] = -10.0 - np.arange(len(far[1, 5::30]))  # all in one class
    found = neighbours._smallest(far, 9)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(np.argsort(far, axis=1)[:, :9], axis=1))


def test_equal_embeddings_are_exactly_zero_apart():
    z = 1e3 + np.random.default_rng(1).normal(size=(200, 300))
    z[150] = z[3]
    for metric in ("euclidean", "cosine"):
        found = neighbours.nearest(z, 3, metric)
        assert found.index_NK[3, 0] == 150
        assert found.distance_NK[3, 0] == found.distance_NK[150, 0] == 0
        assert (found.distance_NK[[3, 150], 1] > 0).all()


def test_a_vector_of_zeros_is_far_from_all_by_cosine():
    z = np.random.default_rng(0).normal(size=(20, 3))
    z[4] = 0
    found = neighbours.nearest(z, 19, "cosine")
    np.testing.assert_array_equal(found.distance_NK[4], 1.0)
    assert (np.sort(found.index_NK[4]) == np.delete(np.arange(20), 4)).all()


def test_fewer_others_than_asked_for_and_none_at_all():
    assert neighbours.nearest(np.eye(4), 8).index_NK.shape == (4, 3)
    with pytest.raises(DatasetError, match="at least 2 images, not 1"):
        neighbours.nearest(np.eye(1), 8)


def planted():
    """60 images; 7 and 40 have one embedding and two patients, 10, 11 and 12 a chain, 20 and 50 the same pixels."""
    z = np.random.default_rng(3).normal(size=(60, 6))
    z[40] = z[7]
    z[11], z[12] = z[10] + 0.02, z[10] + 0.04
    table = pd.DataFrame(
        {
            "patient_id": [f"p{i // 2}" for i in range(60)],
            "split": ["train" if i < 45 else "test" for i in range(60)],
            "pixel_digest": [str(i) for i in range(60)],
        }
    )
    table.loc[12, "patient_id"] = "p5"
    table.loc[10, "patient_id"] = "p5"
    table.loc[50, "pixel_digest"] = "20"
    table.loc[[1, 2], "pixel_digest"] = np.nan  # unknown pixels are not the same pixels
    return z, table


def test_planted_duplicates_are_found_and_no_others():
    z, table = planted()
    found = neighbours.duplicates(neighbours.nearest(z, 4), table)
    assert [(one.members, one.same_pixels, one.n_patients, one.splits) for one in found] == [
        ((20, 50), True, 2, ("test", "train")),
        ((7, 40), False, 2, ("train",)),
        ((10, 11, 12), False, 1, ("train",)),
    ]


def test_without_duplicates_none_are_found():
    z, table = planted()
    z = np.random.default_rng(4).normal(size=z.shape)
    table["pixel_digest"] = [str(i) for i in range(60)]
    assert neighbours.duplicates(neighbours.nearest(z, 4), table) == []


def test_where_most_images_have_a_copy_only_copies_count():
    z = np.repeat(np.random.default_rng(5).normal(size=(20, 4)), 2, axis=0)
    z[39] += 1e-6  # nearly, but not, a copy
    table = pd.DataFrame({"patient_id": "p", "split": "train", "pixel_digest": [str(i) for i in range(40)]})
    found = neighbours.duplicates(neighbours.nearest(z, 3), table)
    assert {one.members for one in found} == {(2 * i, 2 * i + 1) for i in range(19)}


def test_the_farthest_come_first():
    z = np.random.default_rng(6).normal(size=(80, 3))
    z[13], z[55] = 30, -60
    far = neighbours.outliers(neighbours.nearest(z, 5, "euclidean"), 10)
    assert far[:2].tolist() == [55, 13]
    assert len(far) == 10
