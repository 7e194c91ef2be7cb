"""How an attribute ranks the label by itself, and what the label's score gains from it."""

import numpy as np
import pytest

from hilum.judgement import stats
from hilum.judgement.shortcuts.association import association, inside
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.recipe import Shortcuts

FEW = Shortcuts(bootstrap=200, min_group=10)


def sites(code, n_levels):
    code = np.asarray(code, dtype=float)
    levels = tuple("abcdefgh"[:n_levels])
    band = np.array(["unknown" if np.isnan(c) else levels[int(c)] for c in code], dtype=object)
    return Attribute("site", "category", levels, code, code, band)


def number(value):
    value = np.asarray(value, dtype=float)
    code = (value >= np.median(value)).astype(float)
    return Attribute("age", "number", ("young", "old"), code, value, np.where(code == 1, "old", "young").astype(object))


def test_levels_are_ranked_by_their_prevalence_in_the_other_folds():
    random = np.random.default_rng(0)
    n = 400
    site, fold = random.integers(0, 4, n), random.integers(0, 5, n)
    y = (random.random(n) < np.array([0.1, 0.3, 0.5, 0.7])[site]).astype(float)
    y[:20] = np.nan
    found = association(sites(site, 4), y, np.arange(n), fold, FEW)
    known = ~np.isnan(y)
    score = np.zeros(n)
    for i in np.flatnonzero(known):
        fit = known & (fold != fold[i])
        prior = y[fit].mean()
        like = fit & (site == site[i])
        score[i] = (y[like].sum() + prior) / (like.sum() + 1)
    wins = pairs = 0.0
    for i in np.flatnonzero(known & (y == 1)):
        for j in np.flatnonzero(known & (y == 0) & (fold == fold[i])):
            wins += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
            pairs += 1
    assert found.value == pytest.approx(wins / pairs)
    assert found.n == 380
    assert found.low < found.value < found.high


def test_many_rare_levels_that_mean_nothing_do_not_look_telling():
    values, telling = [], 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        y = (random.random(300) < 0.3).astype(float)
        found = association(sites(random.integers(0, 8, 300), 8), y, np.arange(300), np.arange(300) % 5, FEW)
        values.append(found.value)
        telling += found.low > 0.5
    assert abs(np.mean(values) - 0.5) < 0.02  # ranked on its own rows, eight levels would reach 0.6
    assert telling <= 9


def test_a_number_ranks_in_the_direction_that_others_show():
    random = np.random.default_rng(1)
    age = random.uniform(20, 90, 400)
    young_ill = (random.random(400) < 1 / (1 + np.exp((age - 50) / 8))).astype(float)
    assert association(number(age), young_ill, np.arange(400), np.arange(400) % 5, FEW).low > 0.7


def test_nothing_known_together_is_said():
    found = association(sites([np.nan, 0.0], 2), np.array([1.0, np.nan]), np.arange(2), np.zeros(2, dtype=int), FEW)
    assert not found.bounded
    assert "insufficient data" in found.note


def graded(seed, gain_of_site, n=600):
    """A score that follows the label a little and the site by `gain_of_site`; the site goes with the label."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, n).astype(float)
    site = np.where(random.random(n) < 0.8, y, 1 - y)
    score = 0.7 * y + gain_of_site * site + random.normal(size=n)
    return sites(site, 2), y, score, np.zeros(n, dtype=np.int64), np.arange(n)


def test_a_score_that_leans_on_the_site_loses_inside_sites_and_one_that_does_not_does_not():
    leaning = inside(*graded(0, 1.5), FEW)
    fair = inside(*graded(0, 0.0), FEW)
    assert leaning.drop.low > 0.05
    assert fair.drop.low < 0 < fair.drop.high
    assert leaning.drop.value == pytest.approx(leaning.pooled.value - leaning.within.value)


def test_inside_is_the_mean_of_the_levels_by_their_pairs():
    attribute, y, score, fold, patient = graded(3, 1.0)
    found = inside(attribute, y, score, fold, patient, FEW)
    weighted = total = 0.0
    for stratum in found.strata:
        rows = attribute.band_N == stratum.level
        auroc = stats.weighted_auroc(np.ones((1, int(rows.sum()))), y[rows], score[rows])[0]
        assert stratum.auroc.value == pytest.approx(auroc)
        pairs = (y[rows] == 1).sum() * (y[rows] == 0).sum()
        weighted, total = weighted + auroc * pairs, total + pairs
    assert found.within.value == pytest.approx(weighted / total)


def test_a_level_without_enough_cases_is_insufficient_and_two_are_needed_to_compare():
    attribute, y, score, fold, patient = graded(4, 1.0)
    y = np.where((attribute.code_N == 0) & (y == 1), np.nan, y)  # site a has no case left
    found = inside(attribute, y, score, fold, patient, FEW)
    assert "insufficient data: 0 patients with" in found.strata[0].auroc.note
    assert found.strata[1].auroc.bounded
    assert not found.drop.bounded
