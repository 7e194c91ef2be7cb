import pytest
from made_vectors import make_vectors
from making import make_dataset

from hilum.data.store import Dataset
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError


@pytest.mark.parametrize("n_patients", [3, 60])
def test_vectors_of_another_dataset_are_refused_whether_it_is_shorter_or_longer(tiny_dataset, tmp_path, n_patients):
    vectors = Vectors.open(make_vectors(tiny_dataset, tmp_path / "vectors", "moco", 1.0))
    assert list(vectors.joined(Dataset.open(tiny_dataset))["image_id"]) == list(vectors.rows["image_id"])
    other = make_dataset(tmp_path / "other", n_patients=n_patients, seed=1)
    with pytest.raises(DatasetError, match="made from another dataset"):
        vectors.joined(Dataset.open(other))
