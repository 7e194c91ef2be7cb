"""Principal components against the singular value decomposition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoders import SIZE, SMALL

from hilum.data.store import Dataset
from hilum.learning import encoders
from hilum.learning.encoders.pixels import principal_components
from hilum.learning.engine.batches import TrainImages

random = np.random.default_rng(0)


@pytest.mark.parametrize(("n", "p"), [(40, 64), (200, 64), (64, 64), (30, 2500)])
def test_components_are_the_leading_right_singular_vectors(n: int, p: int) -> None:
    mixed = random.normal(size=(n, 12)) @ random.normal(size=(12, p)) * 20 + 128 + random.normal(size=(n, p))
    x = np.clip(mixed, 0, 255).astype(np.uint8)
    mean, components = principal_components(x, 5)
    centred = x / 255.0 - x.mean(axis=0) / 255.0
    _, sizes, vectors = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(mean, x.mean(axis=0) / 255.0)
    np.testing.assert_allclose(components @ components.T, np.eye(5), atol=1e-8)
    np.testing.assert_allclose(np.abs((components * vectors[:5]).sum(axis=1)), np.ones(5), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(centred @ components.T, axis=0), sizes[:5], rtol=1e-8)
    assert (components[np.arange(5), np.abs(components).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("p", [9, 400])
def test_directions_beyond_the_rank_are_left_out(p: int) -> None:
    x = random.integers(0, 256, size=(3, p), dtype=np.uint8)
    x = np.concatenate([x] * (7 if p == 9 else 1))
    _, components = principal_components(x, 10)
    assert len(components) == 2  # three different images span two directions about their mean


def test_embeddings_are_scores_on_the_components(tiny_dataset: Path) -> None:
    """Over the train images scores have mean 0, are uncorrelated, and fall in variance; nothing is trained in steps."""
    images = TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu"))
    encoder = encoders.build(SMALL["pixels"], SIZE)
    encoder.fit(images, seed=0)
    assert not any(p.requires_grad for p in encoder.parameters())
    z = encoder.encode(images.batch(torch.arange(len(images))).x_BCHW).double()
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(8, dtype=torch.float64), atol=1e-6, rtol=0)
    covariance = torch.cov(z.T)
    variance = covariance.diagonal()
    assert (variance.diff() < 0).all()
    off = covariance - torch.diag(variance)
    assert off.abs().max() < 1e-5 * variance[0]
