"""Groups that lie apart: found where planted, explained where something known tells, none in one cloud."""

import numpy as np
import pytest

from hilum.judgement.shortcuts import clusters, explaining
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.modes import differ, principal
from hilum.judgement.shortcuts.unimodal import one_mode
from hilum.recipe import Shortcuts

FEW = Shortcuts(permutations=199, bootstrap=100)


def category(name, code, levels):
    code = np.asarray(code, dtype=float)
    band = np.array(["unknown" if np.isnan(c) else levels[int(c)] for c in code], dtype=object)
    return Attribute(name, "category", levels, code, code, band)


def cohort(seed=0, n_patients=150, dim=12):
    """Two images a patient, PA and LATERAL; views lie far apart; the columns of noise fall in scale."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 2)
    view = np.tile(np.array(["PA", "LATERAL"], dtype=object), n_patients)
    z = random.normal(size=(2 * n_patients, dim)) * np.linspace(1.0, 0.3, dim)
    z[view == "LATERAL", 0] += 20
    return z, view, patient, np.arange(n_patients)[patient] % 5, random


def test_one_heap_is_seldom_called_two_and_two_are():
    called = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        values = random.gamma(2.0, size=150) if seed % 2 else random.normal(size=150)  # skewed, and not
        low, high = np.quantile(values, [0.2, 0.8])
        called += one_mode(values, low, high, seed) <= 0.05
    assert called <= 7  # 3 expected of 60; 2 standard deviations are 3.4
    random = np.random.default_rng(1)
    two = np.concatenate([random.normal(-2, 0.7, 90), random.normal(2, 0.7, 60)])
    assert one_mode(two, -2, 2, 0) == pytest.approx(0.005)
    assert one_mode(two, 2, -2, 0) == 1.0


def test_one_cloud_in_each_view_has_no_clusters():
    found = []
    for seed in range(6):
        z, view, patient, fold, _ = cohort(seed)
        found += clusters.find(z, view, patient, fold, FEW).clusters
    assert found == []


def test_a_planted_separation_is_found_in_its_view_and_named_by_what_explains_it():
    z, view, patient, fold, random = cohort()
    site = random.integers(0, 2, 150)[patient]
    z[(site == 1) & (view == "PA"), 1] += 9
    sex = random.integers(0, 2, 150)[patient]
    search = clusters.find(z, view, patient, fold, FEW)
    assert [one.name for one in search.clusters] == ["PA 1", "PA 2"]
    known = [category("sex", sex, ("F", "M")), category("site", site, ("north", "south"))]
    for one in search.clusters:
        assert len(np.unique(site[one.members])) == 1
        told = explaining.explain(one, known, patient, fold, FEW)
        assert told.explained
        assert [(a.name, levels) for a, levels in told.because] == [
            ("site", (("north", "south")[site[one.members][0]],))
        ]
        assert told.measures[0].adjusted_mutual_information > 0.9
        assert told.measures[0].purity == 1.0
        said = explaining.words(one, told, np.full(300, np.nan))
        assert "What tells them apart is the site (hospital or place)" in said


def test_a_separation_that_nothing_known_tells_is_unexplained_and_its_darkness_is_said():
    z, view, patient, fold, random = cohort(1)
    secret = random.integers(0, 2, 150)[patient]
    z[(secret == 1) & (view == "LATERAL"), 2] += 9
    search = clusters.find(z, view, patient, fold, FEW)
    assert {one.view for one in search.clusters} == {"LATERAL"}
    known = [category("site", random.integers(0, 3, 150)[patient], ("a", "b", "c"))]
    told = explaining.explain(search.clusters[0], known, patient, fold, FEW)
    assert not told.explained
    assert told.because == ()
    grey = np.full(300, 120.0) + random.normal(0, 5, 300)
    grey[search.clusters[0].members] -= 40
    said = explaining.words(search.clusters[0], told, grey)
    assert "Nothing that is known of the images tells why" in said
    assert "darker by 4" in said or "darker by 3" in said


def test_a_part_of_a_site_that_lies_apart_is_told_in_part():
    z, view, patient, fold, random = cohort(2, n_patients=240)
    site, secret = random.integers(0, 2, 240)[patient], random.integers(0, 2, 240)[patient]
    z[(site == 1) & (secret == 1) & (view == "PA"), 1] += 9
    known = [category("site", site, ("north", "south"))]
    search = clusters.find(z, view, patient, fold, FEW)
    small = min(search.clusters, key=lambda one: len(one.members))
    told = explaining.explain(small, known, patient, fold, FEW)
    assert not told.explained
    assert [a.name for a, _ in told.because] == ["site"]
    assert "tells part of it" in explaining.words(small, told, np.full(len(z), np.nan))


def test_images_beyond_the_sample_join_the_cluster_of_their_neighbours(monkeypatch):
    z, view, patient, fold, random = cohort(3)
    site = random.integers(0, 2, 150)[patient]
    z[(site == 1) & (view == "PA"), 1] += 9
    monkeypatch.setattr(clusters, "MAX_EXACT", 100)
    found = clusters.find(z, view, patient, fold, FEW).clusters
    assert [one.view for one in found] == ["PA", "PA"]
    assert sum(len(one.members) for one in found) > 120
    assert all(len(np.unique(site[one.members])) == 1 for one in found)


def test_the_nearest_images_are_of_different_patients_and_in_order():
    z, view, patient, fold, _ = cohort(4)
    z[(np.arange(150) % 2 == 1)[patient] & (view == "PA"), 1] += 9
    one = clusters.find(z, view, patient, fold, FEW).clusters[0]
    assert len(np.unique(patient[one.nearest])) == len(one.nearest)
    scores = principal(z[view == "PA"], FEW.cluster_dims)
    place = {row: k for k, row in enumerate(np.flatnonzero(view == "PA"))}
    middle = np.mean([scores[place[row]] for row in one.members], axis=0)
    away = [np.linalg.norm(scores[place[row]] - middle) for row in one.nearest]
    assert away == sorted(away)


def test_principal_scores_have_the_variances_of_a_singular_value_decomposition():
    z = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9)
    scores = principal(z, 3)
    _, s, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    assert np.allclose(np.linalg.norm(scores, axis=0), s[:3])
    assert np.allclose(scores.T @ scores, np.diag(s[:3] ** 2), atol=1e-8)


def test_a_mode_that_differs_by_site_is_named_and_corrected_as_benjamini_and_yekutieli_do():
    random = np.random.default_rng(0)
    n = 240
    site, label = random.integers(0, 2, n), random.integers(0, 2, n)
    score = random.normal(size=(n, 5))
    score[:, 1] += 1.5 * site
    found = differ(
        score, [category("site", site, ("north", "south"))], label, np.full(n, "PA"), np.arange(n), 20, seed=0
    )
    assert [(one.level, one.mode) for one in found] == [("south", k) for k in (1, 2, 3, 4)]
    assert found[1].p_by < 1e-6
    assert min(found[k].p_by for k in (0, 2, 3)) > 0.01
    p = np.array([one.p for one in found])
    order, harmonic = np.argsort(p), sum(1 / k for k in range(1, 5))
    expected = np.empty(4)
    running = 1.0
    for rank in (4, 3, 2, 1):
        running = min(running, p[order[rank - 1]] * 4 * harmonic / rank)
        expected[order[rank - 1]] = running
    assert np.allclose([one.p_by for one in found], expected)


def test_a_difference_of_prevalence_is_not_one_of_the_embedding():
    random = np.random.default_rng(1)
    n = 600
    label = random.integers(0, 2, n)
    site = (random.random(n) < np.where(label == 1, 0.8, 0.2)).astype(int)
    score = random.normal(size=(n, 4))
    score[:, 0] += 2.0 * label
    found = differ(
        score, [category("site", site, ("north", "south"))], label, np.full(n, "PA"), np.arange(n), 20, seed=0
    )
    assert found[0].p_by > 0.05
