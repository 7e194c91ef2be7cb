import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from made_vectors import make_vectors
from making import make_dataset
from PIL import Image
from scipy.stats import norm, t
from sklearn.linear_model import LogisticRegression

from hilum.data.store import Dataset
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError, UsageError
from hilum.judgement import stats
from hilum.judgement.probing import draws, efficiency, logistic
from hilum.ranking import auroc
from hilum.recipe import Efficiency, Probe

QUICK = Probe(
    bootstrap=200,
    min_cases=5,
    scalings=("feature",),
    efficiency=Efficiency(labels=("pneumonia",), fractions=(0.01, 0.1, 1.0), min_cases=3),
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("cohort") / "dataset", n_patients=400, size=16)


@pytest.fixture(scope="module")
def curves(tmp_path_factory, cohort):
    """The curves of a strong and of a weak encoder."""
    folder = tmp_path_factory.mktemp("curves")
    tables = {
        name: efficiency.run(cohort, make_vectors(cohort, folder / f"v_{name}", name, signal), QUICK, folder / name)
        for name, signal in (("strong", 2.0), ("weak", 0.5))
    }
    return folder, tables


def test_a_curve_rises_and_says_who_was_in_it(curves, cohort):
    folder, tables = curves
    table = tables["strong"]
    assert tuple(table.columns) == efficiency.COLUMNS
    pd.testing.assert_frame_equal(pd.read_csv(folder / "strong" / "efficiency.csv"), table, check_dtype=False)
    few = table[table["fraction"] == 0.01]
    assert len(few) == 1, "two patients cannot hold three of each class: the share is named, once"
    assert "insufficient data" in few["note"].iloc[0]
    assert "needed in each: 3" in few["note"].iloc[0]
    tenth, whole = (table[table["fraction"] == share] for share in (0.1, 1.0))
    assert list(tenth["draw"]) == [0, 1, 2, 3, 4]
    assert list(whole["draw"]) == [0]
    assert (tenth["low"] < tenth["mean"]).all()
    assert tenth["mean"].iloc[0] == pytest.approx(tenth["auroc"].mean())
    assert tenth["mean"].iloc[0] < whole["mean"].iloc[0]
    assert whole["mean"].iloc[0] > 0.85
    assert "how the training patients vary is not in it" in whole["note"].iloc[0]
    manifest = Dataset.open(cohort).manifest
    known = manifest[(manifest["split"] == "train") & manifest["pneumonia"].notna()]
    assert whole["n_images"].iloc[0] == len(known)
    assert whole["n_patients"].iloc[0] == known["patient_id"].nunique()
    assert whole["n_positive"].iloc[0] == known["pneumonia"].sum()


def test_a_point_is_that_of_a_machine_fitted_to_the_draw(curves, cohort, monkeypatch):
    folder, _ = curves
    monkeypatch.setattr(logistic, "C_GRID", (30.0,))
    table = efficiency.run(cohort, folder / "v_strong", QUICK, folder / "one")
    manifest = Dataset.open(cohort).manifest
    z = np.asarray(Vectors.open(folder / "v_strong").z_ND, dtype=float)
    train = np.flatnonzero(manifest["split"] == "train")
    test = np.flatnonzero((manifest["split"] == "test") & manifest["pneumonia"].notna())
    for draw in draws.draws(manifest["patient_id"], train, (0.1,), 5, 0):
        rows = [row for row in draw.rows if manifest["pneumonia"].notna()[row]]
        mean, length = z[rows].mean(0), z[rows].std(0) * math.sqrt(z.shape[1])
        machine = LogisticRegression(C=30.0, class_weight="balanced", max_iter=10_000)
        machine.fit((z[rows] - mean) / length, manifest["pneumonia"].iloc[rows])
        score = machine.decision_function((z[test] - mean) / length)
        point = table[(table["fraction"] == 0.1) & (table["draw"] == draw.number)].iloc[0]
        assert point["auroc"] == pytest.approx(auroc(manifest["pneumonia"].iloc[test], score), abs=2e-3)
        assert point["n_images"] == len(rows)


def test_draws_are_the_same_for_every_encoder(curves):
    folder, tables = curves
    same = ["fraction", "draw", "n_images", "n_patients", "n_positive", "n_test"]
    pd.testing.assert_frame_equal(tables["strong"][same], tables["weak"][same])
    one, two = (json.loads((folder / name / "efficiency.json").read_text()) for name in ("strong", "weak"))
    assert one["draws_digest"] == two["draws_digest"]
    assert one["left_out"] == two["left_out"]
    assert [entry["fraction"] for entry in one["left_out"]] == [0.01]


def test_the_interval_joins_test_patients_and_draws_by_hand():
    random = np.random.default_rng(0)
    y = np.arange(200) % 2.0
    score = random.normal(size=(4, 200)) + y * np.array([0.4, 0.8, 1.2, 1.6])[:, None]
    found, sd = efficiency.over_draws(y, score, np.arange(200), 300, 5)
    each = [auroc(y, one) for one in score]
    assert found.value == pytest.approx(np.mean(each))
    assert sd == pytest.approx(np.std(each, ddof=1))
    drawn, resample = [], np.random.default_rng(5)
    for _ in range(300):
        rows = resample.integers(0, 200, 200)
        drawn.append(np.mean([auroc(y[rows], one[rows]) for one in score]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    half = t.ppf(0.975, 3) * sd / 2
    assert found.low == pytest.approx(found.value - math.hypot(found.value - low, half), abs=0.02)
    assert found.high == pytest.approx(min(1, found.value + math.hypot(high - found.value, half)), abs=0.02)
    alone, none = efficiency.over_draws(y, score[:1], np.arange(200), 300, 5)
    assert math.isnan(none)
    plain = stats.patient_bootstrap(stats.weighted_auroc, np.arange(200), 300, 5, y, score[0])
    assert (alone.low, alone.high) == pytest.approx((plain.low, plain.high))


def test_the_interval_covers_the_mean_over_draws_and_cohorts():
    """A score of strength s ranks with AUROC Phi(s / sqrt 2); draws vary s, cohorts the rows. Nominal: 95%."""
    covered, spread, cases = 0, 0.35, 150
    wide = np.random.default_rng(99).normal(1.0, spread, 200_000)
    truth = norm.cdf(wide / math.sqrt(2)).mean()
    for seed in range(cases):
        random = np.random.default_rng(seed)
        y = np.arange(160) % 2.0
        common = random.normal(size=160)  # the same rows: errors of the draws are correlated
        strength = random.normal(1.0, spread, 5)
        noise = math.sqrt(0.5) * common + math.sqrt(0.5) * random.normal(size=(5, 160))
        found, _ = efficiency.over_draws(y, noise + strength[:, None] * y, np.arange(160), 200, seed)
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / cases <= 1.0


def test_a_label_that_is_absent_is_refused_and_one_of_few_is_named(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=1.0)
    asked = QUICK.model_copy(update={"efficiency": Efficiency(labels=("dementia",))})
    with pytest.raises(UsageError, match="no label 'dementia'; it has pneumonia, no_finding"):
        efficiency.run(tiny_dataset, vectors, asked, tmp_path / "out")
    few = QUICK.model_copy(update={"min_cases": 50})
    table = efficiency.run(tiny_dataset, vectors, few, tmp_path / "out")
    assert len(table) == 1
    assert "needed: 50" in table["note"].iloc[0]
    with pytest.raises(UsageError, match="no label left enough cases"):
        efficiency.plot([tmp_path / "out"], tmp_path / "plot")


def test_the_picture_shows_every_encoder_and_is_the_same_twice(curves, tmp_path):
    folder, _ = curves
    for out in ("a", "b"):
        efficiency.plot([folder / "strong", folder / "weak"], tmp_path / out)
    for name in ("efficiency.png", "efficiency.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "efficiency.png") as picture:
        assert min(picture.size) > 400
    text = (tmp_path / "a" / "efficiency.svg").read_text()
    ElementTree.fromstring(text)
    for said in ("strong", "weak", "pneumonia", "10%", "100%", "too few cases to learn from: 1%", "AUROC"):
        assert said in text
    assert not list((tmp_path / "a").glob("*.partial"))


def test_curves_that_do_not_compare_are_refused(curves, cohort, tmp_path):
    folder, _ = curves
    other = QUICK.model_copy(update={"seed": 1})
    efficiency.run(cohort, folder / "v_weak", other, tmp_path / "other")
    with pytest.raises(UsageError, match="differ in their draws of patients"):
        efficiency.plot([folder / "strong", tmp_path / "other"], tmp_path / "plot")
    richer = QUICK.model_copy(update={"bootstrap": 100})
    efficiency.run(cohort, folder / "v_weak", richer, tmp_path / "richer")
    with pytest.raises(UsageError, match="differ in their probe recipe"):
        efficiency.plot([folder / "strong", tmp_path / "richer"], tmp_path / "plot")
    with pytest.raises(UsageError, match="'weak' is there twice"):
        efficiency.plot([folder / "weak", folder / "weak"], tmp_path / "plot")
    with pytest.raises(DatasetError, match="holds no label-efficiency curve"):
        efficiency.plot([tmp_path], tmp_path / "plot")
    assert not (tmp_path / "plot").exists()


def test_test_rows_do_not_touch_what_is_learnt(curves, cohort, tmp_path):
    """With the test embeddings replaced, the settings chosen in each draw stay as they were."""
    folder, tables = curves
    embedded = Vectors.open(folder / "v_strong")
    z = np.array(embedded.z_ND)
    z[embedded.rows["split"] == "test"] = np.random.default_rng(0).normal(size=z.shape[1])
    replace(embedded, z_ND=z).write(tmp_path / "vectors")
    table = efficiency.run(cohort, tmp_path / "vectors", QUICK, tmp_path / "out")
    settings = [frame["note"].str.extract(r"(feature C=[\d.]+)")[0] for frame in (table, tables["strong"])]
    pd.testing.assert_series_equal(*settings)
