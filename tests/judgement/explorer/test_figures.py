"""Curves against the library and against loops; figures that are written whole, twice the same, with text as text."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_vectors import make_vectors
from PIL import Image
from sklearn.metrics import roc_curve

from hilum.cli import cli
from hilum.errors import DatasetError, UsageError
from hilum.judgement.explorer import curves, figures
from hilum.judgement.explorer.maps import OKABE_ITO


def cohort(n=400, seed=0, ties=False):
    random = np.random.default_rng(seed)
    patients = np.arange(n) // 2
    truth = np.repeat(random.integers(0, 2, n // 2), 2).astype(float)
    score = truth + random.normal(size=n)
    return truth, np.round(score, 0 if ties else 9), patients


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_is_that_of_the_library(ties):
    truth, score, _ = cohort(ties=ties)
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    found = curves.at_grid(np.ones((1, len(truth))), truth, score)[0]
    for x, y in zip(curves.GRID, found, strict=True):
        at = np.flatnonzero(fpr == x)
        expected = tpr[at].max() if len(at) else np.interp(x, fpr, tpr)
        assert y == pytest.approx(expected, abs=1e-12)


def test_a_weight_of_two_is_the_answer_twice():
    truth, score, _ = cohort(60)
    random = np.random.default_rng(1)
    w_RN = random.integers(0, 3, (5, 60)).astype(float)
    found = curves.at_grid(w_RN, truth, score)
    for w, curve in zip(w_RN, found, strict=True):
        rows = np.repeat(np.arange(60), w.astype(int))
        again = curves.at_grid(np.ones((1, len(rows))), truth[rows], score[rows])[0]
        np.testing.assert_allclose(curve, again)
    nobody = np.where(truth == 1, 0.0, 1.0)[None]
    assert np.isnan(curves.at_grid(nobody, truth, score)).all()


def test_the_band_holds_what_other_cohorts_show():
    """The pointwise band of one cohort holds the curve of the population about as often as it says."""
    fpr, tpr, _ = roc_curve(*cohort(200_000, seed=99)[:2])
    held = []
    for seed in range(30):
        found = curves.roc(*cohort(200, seed=seed), replicates=200, seed=0)
        at = np.interp(curves.GRID[10:90:20], fpr, tpr)
        held.append((found.low_G[10:90:20] <= at) & (at <= found.high_G[10:90:20]))
    assert 0.86 < np.mean(held) <= 1.0


def test_the_band_is_that_of_patients_and_not_of_images():
    truth, score, patients = cohort(200)
    again = np.tile(np.arange(200), 4)  # every image four times: no patient more
    once = curves.roc(truth, score, patients, 300, 0)
    fourfold = curves.roc(truth[again], score[again], patients[again], 300, 0)
    np.testing.assert_allclose(once.low_G, fourfold.low_G)
    np.testing.assert_allclose(once.high_G, fourfold.high_G)


def test_bins_have_equal_mass_and_the_shares_of_their_members():
    truth, score, patients = cohort(300)
    probability = 1 / (1 + np.exp(-score))
    found = curves.calibration(truth, probability, patients)
    assert len(found) == 10
    order = np.argsort(probability)
    for place, one in enumerate(found):
        of = order[30 * place : 30 * place + 30]
        assert one.predicted == pytest.approx(probability[of].mean())
        assert one.observed.value == pytest.approx(truth[of].mean())
        assert one.observed.n == 30
        assert one.observed.low <= one.observed.value <= one.observed.high


def test_few_answers_make_few_bins_and_ties_stay_together():
    truth, score, patients = cohort(50)
    assert [one.observed.n for one in curves.calibration(truth, score, patients)] == [25, 25]
    one, other = curves.calibration(truth, np.repeat([0.2, 0.7], [12, 38]), patients)
    assert (one.observed.n, other.observed.n) == (12, 38)
    assert (one.predicted, other.predicted) == (pytest.approx(0.2), pytest.approx(0.7))


FACTS = {"headline_kernel": "rbf", "caution": "Made up.", "run": {"data_digest": "abc123", "recipe_digest": "def456"}}


def make_probe(folder, encoder, seed, label="pneumonia", both=True):
    truth, score, patients = cohort(240, seed)
    truth = truth if both else np.ones(240)
    folder.mkdir()
    pd.DataFrame(
        {
            "task": label,
            "kernel": "rbf",
            "truth": truth,
            "score": score,
            "patient": patients,
            "probability": 1 / (1 + np.exp(-score)),
        }
    ).to_parquet(folder / "predictions.parquet")
    measured = {"task": label, "kernel": "rbf", "metric": ["auroc", "ece"], "value": [0.761, 0.123]}
    pd.DataFrame({**measured, "low": [0.7, 0.1], "high": [0.82, 0.2]}).to_csv(folder / "scores.csv", index=False)
    (folder / "probe.json").write_text(json.dumps(FACTS | {"encoder": encoder}))
    return folder


def make_audit(folder):
    folder.mkdir()
    common = {"kind": "gap", "target": "pneumonia", "attribute": "sex", "n": 100, "p_holm": 0.5}
    rows = [{**common, "metric": metric, "value": 0.1, "low": 0.02, "high": 0.2} for metric in figures.GAPS]
    rows.append({**common, "kind": "group", "metric": "auroc", "value": 0.7})
    pd.DataFrame(rows).to_csv(folder / "fairness.csv", index=False)
    return folder


def test_every_figure_is_written_as_png_and_svg_twice_the_same(tiny_dataset, tmp_path):
    probes = [make_probe(tmp_path / name, name, seed) for seed, name in enumerate(("moco", "pixels"))]
    mapped = (tiny_dataset, make_vectors(tiny_dataset, tmp_path / "vectors", "moco", 3.0))
    audit = make_audit(tmp_path / "audit")
    for out in ("one", "two"):
        said = figures.run(probes, tmp_path / out, mapped=mapped, audit=audit)
    assert said == ["roc: moco, pixels", "calibration: moco, pixels", "map", "gaps"]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(f"{n}.{e}" for n in ("roc", "calibration", "map", "gaps") for e in ("png", "svg"))
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_text_is_text_and_encoders_have_colours_of_their_own(tmp_path):
    probes = [make_probe(tmp_path / name, name, seed) for seed, name in enumerate(("moco", "pixels", "vae"))]
    figures.run(probes, tmp_path / "out")
    svg = (tmp_path / "out" / "roc.svg").read_text(encoding="utf-8")
    written = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert "ROC: pneumonia" in written
    assert {f"{name}: AUROC 0.76 (0.70–0.82)" for name in ("moco", "pixels", "vae")} <= set(written)
    assert any(text.startswith("Test: 240 images of 120 patients") for text in written)
    assert "data digest abc123, recipe digest def456. Made up." in svg
    calibration = (tmp_path / "out" / "calibration.svg").read_text(encoding="utf-8")
    assert "vae: ECE 0.12 (0.10–0.20)" in calibration
    with Image.open(tmp_path / "out" / "roc.png") as picture:
        assert "data digest abc123" in picture.info["Description"]
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in OKABE_ITO[:3]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(axis=1) < 4).sum() > 500


def test_what_cannot_be_drawn_is_said(tmp_path):
    probe = make_probe(tmp_path / "probe", "moco", 0, both=False)
    ran = CliRunner().invoke(cli, ["figures", "--probe", str(probe), "--out", str(tmp_path / "out")])
    assert ran.exit_code == 0
    assert ran.output.splitlines() == [
        "no roc, no calibration: no probe has answers for pneumonia with and without the finding"
    ]
    assert not (tmp_path / "out").exists()
    (tmp_path / "audit").mkdir()
    rows = {"kind": ["gap"], "attribute": ["sex"], "metric": ["auroc"], "value": [np.nan]}
    pd.DataFrame(rows).to_csv(tmp_path / "audit" / "fairness.csv", index=False)
    assert figures.run([], tmp_path / "out", audit=tmp_path / "audit") == [
        "no gaps: no two groups have enough patients"
    ]


def test_calls_that_cannot_be_followed_are_refused(tmp_path):
    with pytest.raises(UsageError, match="need at least a probe"):
        figures.run([], tmp_path)
    with pytest.raises(DatasetError, match=r"holds no probe: it has no probe\.json"):
        figures.run([tmp_path], tmp_path / "out")
    with pytest.raises(DatasetError, match=r"holds no audit: it has no fairness\.csv"):
        figures.run([], tmp_path / "out", audit=tmp_path)
    with pytest.raises(UsageError, match="8 encoders cannot be told apart in one figure; draw at most 7"):
        figures.run([tmp_path] * 8, tmp_path / "out")
