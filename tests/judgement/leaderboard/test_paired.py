"""The p-value of one encoder's answers against another's: swaps of whole patients, by kind of task."""

import numpy as np
import pandas as pd
import pytest

from hilum.judgement import stats
from hilum.judgement.leaderboard import paired

PATIENT = np.repeat(np.arange(12), 3)
FOLD = PATIENT % 2


def answers(truth, score, task="x", order=0):
    frame = pd.DataFrame(
        {"row": np.arange(36), "patient": PATIENT, "fold": FOLD, "task": task, "truth": truth, "score": score}
    )
    return frame.sample(frac=1, random_state=order)


@pytest.fixture
def scored():
    random = np.random.default_rng(1)
    truth = (random.random(36) < 0.5).astype(float)
    return truth, truth - 0.5 + random.normal(size=36), 9 * random.normal(size=36)


def test_an_auroc_is_ranked_within_its_folds_whatever_the_order_of_rows(scored):
    truth, a, b = scored
    expected = stats.swap_test(stats.weighted_auroc, PATIENT, truth, a, b, 4096, stratum_N=FOLD)
    assert 0 < expected < 1
    found = paired.p_value(answers(truth, a), answers(truth, b, order=1), "binary", "auroc", 4096)
    assert found == pytest.approx(expected)
    moved = paired.p_value(answers(truth, a + 50 * FOLD), answers(truth, b), "binary", "auroc", 4096)
    assert moved == pytest.approx(expected)
    assert paired.p_value(answers(truth, b), answers(truth, a), "binary", "auroc", 4096) == pytest.approx(expected)


def test_decisions_and_errors_are_compared_as_they_are(scored):
    truth, a, b = scored
    right = [(score > 0) == (truth == 1) for score in (a, b)]
    mistakes = [(~one).astype(float) for one in right]
    found = paired.p_value(answers(truth, a), answers(truth, b), "binary", "balanced_accuracy", 4096)

    def recalls(w_RN, truth, wrong):
        return stats.weighted_balanced_accuracy(w_RN, truth, np.where(wrong == 1, 1 - truth, truth))

    assert found == pytest.approx(stats.swap_test(recalls, PATIENT, truth, *mistakes, 4096, ranked=False))
    errors = paired.p_value(answers(truth, a), answers(truth, b), "regression", "mae", 4096)
    assert errors == pytest.approx(stats.swap_test(stats.weighted_mae, PATIENT, truth, a, b, 4096, ranked=False))


def test_several_labels_and_unknown_truths(scored):
    truth, a, b = scored
    known = np.arange(36) % 5 > 0

    def both(score):
        return pd.concat([answers(truth, score, "x"), answers(1 - truth, -score, "y")[lambda f: known[f["row"]]]])

    found = paired.p_value(both(a), both(b), "mean", "auroc", 4096)
    assert 0 < found < 1
    assert paired.p_value(both(a), both(a), "mean", "auroc", 4096) == 1


def test_rows_that_differ_are_not_compared(scored):
    truth, a, b = scored
    assert np.isnan(paired.p_value(answers(truth, a), answers(truth, b)[:30], "binary", "auroc", 50))
    assert np.isnan(paired.p_value(answers(np.ones(36), a), answers(np.ones(36), b), "binary", "auroc", 50))
