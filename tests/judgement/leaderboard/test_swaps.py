"""The p-values of all pairs at once are those of the test that swaps patients and scores anew, one pair at a time."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from hilum.judgement import stats
from hilum.judgement.leaderboard import paired, swaps

PATIENT = np.repeat(np.arange(12), 3)
FOLD = PATIENT % 2


def answers(truth, score, task="x", order=0):
    frame = pd.DataFrame(
        {"row": np.arange(36), "patient": PATIENT, "fold": FOLD, "task": task, "truth": truth, "score": score}
    )
    return frame.sample(frac=1, random_state=order)


def p_value(ours, theirs, kind, metric, permutations=4096):
    return swaps.p_values(paired.align([ours, theirs], kind), kind, metric, permutations)[0, 1]


@pytest.fixture
def scored():
    random = np.random.default_rng(1)
    truth = (random.random(36) < 0.5).astype(float)
    return truth, truth - 0.5 + random.normal(size=36), 9 * random.normal(size=36)


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
def test_an_auroc_is_ranked_within_its_folds_whatever_the_order_of_rows(scored, rounded):
    truth, a, b = (np.round(one) for one in scored) if rounded else scored
    expected = stats.swap_test(stats.weighted_auroc, PATIENT, truth, a, b, 4096, stratum_N=FOLD)
    assert 0 < expected < 1
    found = p_value(answers(truth, a), answers(truth, b, order=1), "binary", "auroc")
    assert found == pytest.approx(expected)
    moved = p_value(answers(truth, a + 50 * FOLD), answers(truth, b), "binary", "auroc")
    assert moved == pytest.approx(expected)
    assert p_value(answers(truth, b), answers(truth, a), "binary", "auroc") == pytest.approx(expected)


def test_decisions_choices_and_errors_are_compared_as_they_are(scored):
    truth, a, b = scored

    def naive(statistic, ours, theirs):
        return stats.swap_test(statistic, PATIENT, truth, ours, theirs, 4096, ranked=False)

    expected = naive(stats.weighted_balanced_accuracy, (a > 0).astype(float), (b > 0).astype(float))
    assert p_value(answers(truth, a), answers(truth, b), "binary", "balanced_accuracy") == pytest.approx(expected)
    errors = p_value(answers(truth, a), answers(truth, b), "regression", "mae")
    assert errors == pytest.approx(naive(stats.weighted_mae, a, b))

    def three(score):
        columns = np.stack([score, -score, np.roll(score, 5)], axis=1)
        frames = [answers(truth == k, columns[:, k], f"x={k}") for k in range(3)]
        return pd.concat(frames), columns.argmax(axis=1)

    (ours, chosen), (theirs, other) = three(a), three(b)
    assert p_value(ours, theirs, "multiclass", "balanced_accuracy") == pytest.approx(
        naive(stats.weighted_balanced_accuracy, chosen, other)
    )


def test_a_mean_over_labels_of_which_some_truths_are_unknown(scored):
    truth, a, b = scored
    known = np.arange(36) % 5 > 0

    def both(score, further):
        return pd.concat([answers(truth, score, "x"), answers(1 - truth, further, "y")[lambda f: known[f["row"]]]])

    def mean(w_RN, truth_NL, score_NL, fold_N):
        return np.mean([stats.weighted_auroc(w_RN, truth_NL[:, k], score_NL[:, k], fold_N) for k in (0, 1)], axis=0)

    second = np.where(known, 1 - truth, np.nan)
    arrays = [np.stack([one, np.where(known, other, np.nan)], axis=1) for one, other in ((a, -b), (b, a))]
    expected = stats.swap_test(mean, PATIENT, np.stack([truth, second], axis=1), *arrays, 4096, stratum_N=FOLD)
    assert 0 < expected < 1
    assert p_value(both(a, -b), both(b, a), "mean", "auroc") == pytest.approx(expected)
    assert p_value(both(a, -b), both(a, -b), "mean", "auroc") == 1


def test_all_pairs_at_once_with_many_patients_are_the_pairs_one_by_one():
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 2)
    truth = (patient % 2).astype(float)
    scores = tuple(signal * truth + random.normal(size=80) for signal in (0.0, 2.0, 2.1))
    rows = paired.Aligned(patient, np.zeros(80), truth, scores)
    found = swaps.p_values(rows, "binary", "auroc", 2000)
    for a, b in combinations(range(3), 2):
        expected = stats.swap_test(stats.weighted_auroc, patient, truth, scores[a], scores[b], 2000)
        assert found[a, b] == pytest.approx(expected), (a, b)  # the same patients swapped: the same seed
    assert found[0, 1] < 0.05 < found[1, 2]


def test_many_pairs_get_enough_permutations_to_survive_their_correction():
    truth = np.tile([0.0, 1.0], 30)
    right = truth + np.linspace(0, 0.5, 60)
    scores = (*(-right for _ in range(12)), right)
    rows = paired.Aligned(np.arange(60), np.zeros(60), truth, scores)
    found = swaps.p_values(rows, "binary", "auroc", 100)
    corrected = dict(zip(found, stats.holm(list(found.values())), strict=True))
    assert all(corrected[a, 12] < 0.02 for a in range(12))
    assert all(p == 1 for (_, b), p in corrected.items() if b != 12)


def test_what_is_undefined_has_no_p_value(scored):
    truth, a, b = scored
    assert np.isnan(p_value(answers(np.ones(36), a), answers(np.ones(36), b), "binary", "auroc"))
    gap = np.where(np.arange(36) == 3, np.nan, a)
    assert np.isnan(p_value(answers(truth, gap), answers(truth, b), "binary", "auroc"))
    assert paired.align([answers(truth, a), answers(truth, b)[:30]], "binary") is None
    assert swaps.p_values(paired.align([answers(truth, a)], "binary"), "binary", "auroc") == {}
