"""The difference of two scores of the same rows, with its interval."""

import numpy as np
import pandas as pd
import pytest

from hilum.judgement.leaderboard import paired
from hilum.ranking import auroc


def test_paired_interval_by_a_naive_loop():
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 2)
    truth = (patient % 2).astype(float)
    common = random.normal(size=80)  # errors that both share cancel in a paired comparison
    a, b = truth + common + 0.3 * random.normal(size=80), 0.8 * truth + common + 0.3 * random.normal(size=80)
    frames = [
        pd.DataFrame({"row": np.arange(80), "patient": patient, "fold": 0, "task": "x", "truth": truth, "score": s})
        for s in (a, b)
    ]
    found = paired.gain(frames[0], frames[1].sample(frac=1, random_state=0), "binary", "auroc")
    replicates = []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(patient == p) for p in random.integers(0, 40, 40)])
        replicates.append(auroc(truth[rows], a[rows]) - auroc(truth[rows], b[rows]))
    assert found.value == pytest.approx(auroc(truth, a) - auroc(truth, b))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])), abs=0.02)
    shorter = paired.gain(frames[0], frames[1][:70], "binary", "auroc")
    assert "did not score the same rows" in shorter.note
