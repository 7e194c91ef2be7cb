import numpy as np
import pytest

from hilum.judgement.report import mmd


def naive(x, y, patient_x, patient_y, bandwidth):
    """Gretton et al. 2012, equation 3, over pairs of rows of two patients."""

    def mean(a, b, of_a, of_b):
        values = []
        for row, patient in zip(a, of_a, strict=True):
            for other, theirs in zip(b, of_b, strict=True):
                if patient != theirs:
                    values.append(np.exp(-((row - other) ** 2).sum() / (2 * bandwidth**2)))
        return np.mean(values)

    within = mean(x, x, patient_x, patient_x) + mean(y, y, patient_y, patient_y)
    return within - 2 * mean(x, y, patient_x, patient_y)


@pytest.mark.parametrize("images_each", [1, 3])
def test_it_is_the_double_loop_of_the_paper(images_each):
    random = np.random.default_rng(images_each)
    patient = np.repeat(np.arange(14), images_each)
    z = 5 + random.normal(size=(len(patient), 4)) * [1, 2, 3, 0.1]
    kernel, bandwidth = mmd.kernel(z, patient)
    distances = [np.linalg.norm(z[i] - z[j]) for i in range(len(z)) for j in range(len(z)) if patient[i] != patient[j]]
    assert bandwidth == pytest.approx(np.median(distances))
    now = random.random((3, 14))[:, patient] < 0.4
    found = mmd.mmd2(kernel, ~now, now, patient)
    for row in range(3):
        parts = z[~now[row]], z[now[row]], patient[~now[row]], patient[now[row]]
        assert found[row] == pytest.approx(naive(*parts, bandwidth), abs=1e-12)


def test_rows_on_both_sides_are_compared_with_other_patients_only():
    random = np.random.default_rng(4)
    z, patient = random.normal(size=(12, 3)), np.arange(12) // 2
    before, now = np.arange(12) < 8, np.arange(12) >= 4
    kernel, bandwidth = mmd.kernel(z, patient)
    found = mmd.mmd2(kernel, before[None], now[None], patient)[0]
    assert found == pytest.approx(naive(z[before], z[now], patient[before], patient[now], bandwidth), abs=1e-12)


def test_two_sets_of_one_distribution_are_around_zero_however_alike_a_patients_images():
    values = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        patient = np.repeat(np.arange(40), 5)
        z = random.normal(size=(40, 6))[patient] + 0.1 * random.normal(size=(200, 6))
        kernel, _ = mmd.kernel(z, patient)
        now = (patient < 15)[None]
        values.append(mmd.mmd2(kernel, ~now, now, patient)[0])
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_equal_embeddings_and_lone_patients_have_no_value():
    patient = np.arange(6)
    kernel, bandwidth = mmd.kernel(np.ones((6, 2)), patient)
    assert np.isnan(bandwidth)
    now = patient >= 5
    assert np.isnan(mmd.mmd2(kernel, ~now[None], now[None], patient)[0])
