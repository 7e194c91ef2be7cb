import numpy as np
import pytest


@pytest.fixture
def cohort():
    """Patients with one to four images each, their truth, and scores that tie."""
    random = np.random.default_rng(3)
    patients = np.repeat([f"p{i}" for i in range(40)], random.integers(1, 5, 40))
    y = (random.random(len(patients)) < 0.4).astype(float)
    score = np.round(y + random.normal(size=len(y)), 1)  # rounded: ties
    return patients, y, score
