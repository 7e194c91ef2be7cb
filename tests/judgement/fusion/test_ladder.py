"""The ladder side by side: which rungs, on which rows, with which intervals, and that test decides nothing."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from made_vectors import make_vectors
from making import make_dataset
from sklearn.metrics import average_precision_score

from hilum.data import parquet
from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError, UsageError
from hilum.judgement.fusion import ladder as fusion
from hilum.judgement.leaderboard import paired
from hilum.ranking import auroc
from hilum.recipe import Finetune

O2 = "o2_saturation_pct"
ALL = Finetune(modes=("linear",), fusions=fusion.LADDER, bootstrap=200)


def tuned(dataset, out, section=ALL):
    """What fine-tunings of one encoder leave behind, made by hand: noisy logits, better ones where a value is known."""
    cohort = Dataset.open(dataset)
    vectors = Vectors.open(make_vectors(dataset, out / "vectors", "made", signal=0.7))
    table, y = cohort.manifest, cohort.labels()["pneumonia"].to_numpy()
    image = np.asarray(vectors.z_ND[:, 3], dtype=float)
    value = np.nan_to_num((95 - table[O2]).to_numpy())
    patients = pd.factorize(table["patient_id"], sort=True)[0]
    for kind, score in (("image_only", image), ("concatenation", image + 0.3 * value), ("gated", 9 * (image + value))):
        folder = out / "linear" / kind
        folder.mkdir(parents=True)
        for name, split in (("validation", "val"), ("predictions", "test")):
            rows = np.flatnonzero((table["split"] == split).to_numpy() & np.isfinite(y))
            answers = pd.DataFrame(
                {"row": rows, "patient": patients[rows], "task": "pneumonia", "kernel": f"linear_{kind}",
                 "split": split, "fold": 0, "score": score[rows], "truth": y[rows]}
            )  # fmt: skip
            parquet.write(answers, folder / f"{name}.parquet")
        write_json(folder / "recipe.json", section.model_dump(mode="json"))
        write_json(
            folder / "card.json",
            {"label": "pneumonia", "mode": "linear", "fusion": kind, "encoder": "made", "modality": "XR",
             "encoder_weights": "0", "run": {"code_revision": "t", "data_digest": cohort.facts.digest,
             "recipe_digest": "t"}, "encoder_run": {}, "caution": cohort.facts.caution,
             "trials": [{}, {}], "learning_rate": 0.001, "epochs": 3},
        )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("cohort") / "dataset", n_patients=400)


@pytest.fixture(scope="module")
def ladder(cohort, tmp_path_factory):
    out = tuned(cohort, tmp_path_factory.mktemp("ladder") / "tuned")
    return fusion.run(cohort, out, ALL, out), out


def value(table, kind, rows="all", metric="auroc", column="value"):
    chosen = table[(table["fusion"] == kind) & (table["rows"] == rows) & (table["metric"] == metric)]
    assert len(chosen) == 1
    return chosen.iloc[0][column]


def test_every_rung_has_every_metric_on_every_part_of_the_rows(ladder, cohort):
    table, out = ladder
    assert list(dict.fromkeys(table["fusion"])) == list(fusion.LADDER)
    assert len(table) == 5 * 3 * 3
    assert pd.read_csv(out / fusion.CSV)["value"].to_numpy() == pytest.approx(table["value"].to_numpy(), nan_ok=True)
    manifest = Dataset.open(cohort).manifest
    test = manifest[(manifest["split"] == "test") & manifest["pneumonia"].notna()]
    for kind in fusion.LADDER:
        assert value(table, kind, column="n") == len(test)
        assert value(table, kind, "measured", column="n") == test[O2].notna().sum()
        assert value(table, kind, "not measured", column="n") == test[O2].isna().sum()
    known = table[table["value"].notna()]
    assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all()


def test_scores_and_gains_are_those_of_the_answers(ladder):
    table, out = ladder
    answers = {kind: parquet.read(out / "linear" / kind / "predictions.parquet") for kind in fusion.BY_GRADIENTS}
    for kind, one in answers.items():
        assert value(table, kind) == pytest.approx(auroc(one["truth"], one["score"]))
        assert value(table, kind, metric="auprc") == pytest.approx(average_precision_score(one["truth"], one["score"]))
    gain = paired.gain(answers["gated"], answers["image_only"], "binary", "auroc")
    assert [value(table, "gated", column=name) for name in ("gain", "gain_low", "gain_high")] == pytest.approx(
        [gain.value, gain.low, gain.high]
    )
    assert math.isnan(value(table, "image_only", column="gain"))
    assert value(table, "gated", column="gain_low") > 0
    facts = json.loads((out / fusion.FACTS).read_text())
    between = paired.gain(answers["gated"], answers["concatenation"], "binary", "auroc")
    assert facts["gated_over_concatenation"]["linear"]["value"] == pytest.approx(between.value)


def test_trees_and_the_stack_are_worth_what_is_in_the_values(ladder):
    table, out = ladder
    assert value(table, "tabular_only", "measured") > 0.95
    assert value(table, "tabular_only", "not measured") == 0.5  # who has no value gets one answer for all
    assert value(table, "stacking") > value(table, "image_only")
    assert value(table, "stacking", "not measured") == pytest.approx(value(table, "image_only", "not measured"))
    facts = json.loads((out / fusion.FACTS).read_text())
    assert facts["stacking"]["linear"]["tabular"] > 0
    assert facts["trees"]["covariates"] == [O2]
    alone = facts["missingness_alone_auroc"]
    assert alone["low"] < 0.5 < alone["high"]  # here nobody's finding decides who is measured
    who = {(one["attribute"], one["group"]): one for one in facts["measured"]}
    assert {("pneumonia", "present"), ("pneumonia", "absent"), ("sex", "F"), ("site", "A")} <= set(who)
    assert sum(one["n"] for key, one in who.items() if key[0] == "sex") == 160


def test_test_labels_decide_nothing_that_is_fitted(ladder, cohort, tmp_path):
    """Other test labels: the same trees, stack, calibration and answers; only what they are worth differs."""
    table, out = ladder
    other = tmp_path / "dataset"
    shutil.copytree(cohort, other)
    manifest = pd.read_parquet(other / "manifest.parquet")
    test = manifest["split"] == "test"
    manifest.loc[test, "pneumonia"] = 1 - manifest.loc[test, "pneumonia"]
    manifest.to_parquet(other / "manifest.parquet", index=False)
    moved = tmp_path / "tuned"
    shutil.copytree(out, moved)
    for kind in fusion.BY_GRADIENTS:
        answers = parquet.read(moved / "linear" / kind / "predictions.parquet")
        parquet.write(answers.assign(truth=1 - answers["truth"]), moved / "linear" / kind / "predictions.parquet")
    turned = fusion.run(other, moved, ALL, moved)
    assert value(turned, "gated") == pytest.approx(1 - value(table, "gated"))
    facts = [json.loads((folder / fusion.FACTS).read_text()) for folder in (out, moved)]
    assert facts[0]["stacking"] == facts[1]["stacking"]
    assert facts[0]["trees"] == facts[1]["trees"]
    first, second = (parquet.read(folder / fusion.PREDICTIONS) for folder in (out, moved))
    assert first["score"].equals(second["score"])


def test_predictions_are_a_probe_s(ladder):
    _, out = ladder
    answers = parquet.read(out / fusion.PREDICTIONS)
    assert list(answers) == ["row", "patient", "task", "kernel", "split", "fold", "score", "truth"]
    assert set(answers["split"]) == {"test"}
    assert answers.groupby("kernel").size().nunique() == 1


def test_calibration_is_learnt_on_val_and_may_be_left_out(ladder, cohort, tmp_path):
    table, out = ladder
    bare = fusion.run(cohort, out, ALL.model_copy(update={"calibrate": False}), tmp_path)
    assert value(bare, "gated") == value(table, "gated")
    assert value(table, "gated", metric="brier") < value(bare, "gated", metric="brier")
    worth = fusion.judge(out / "linear" / "gated")
    assert worth["brier"].value == pytest.approx(value(table, "gated", metric="brier"))
    said = json.loads((out / "linear" / "gated" / fusion.TEST).read_text())
    assert said["auroc"]["value"] == pytest.approx(value(table, "gated"))
    assert said["calibration"]["on"] == "val"


def test_the_page_stands_alone_and_names_the_run_and_nobody(ladder, cohort):
    _, out = ladder
    page, text = (out / "fusion.html").read_text(), (out / "fusion.md").read_text()
    dataset = Dataset.open(cohort)
    for content in (page, text):
        assert dataset.facts.digest in content
        assert "made by a test" in content
        assert "tabular only" in content
        assert not any(patient in content for patient in dataset.manifest["patient_id"])
    assert "http" not in page
    assert f"{value(ladder[0], 'gated'):.3f} [" in text


def test_too_few_test_patients_are_said_so(cohort, tmp_path):
    out = tuned(cohort, tmp_path / "tuned")
    strict = ALL.model_copy(update={"min_patients": 70})  # eighty patients are in test
    table = fusion.run(cohort, out, strict, out)
    assert table["value"].isna().all()
    assert table["gain"].isna().all()
    assert table["note"].str.startswith("insufficient data: patients of the rarer class").all()
    assert "insufficient data" in (out / "fusion.md").read_text()


def test_image_only_needs_no_covariates(cohort, tmp_path):
    out = tuned(cohort, tmp_path / "tuned")
    table = fusion.run(cohort, out, Finetune(modes=("linear",), bootstrap=100), out)
    assert set(zip(table["fusion"], table["rows"], strict=True)) == {("image_only", "all")}


def test_what_does_not_compare_is_refused(cohort, tmp_path):
    out = tuned(cohort, tmp_path / "tuned")
    with pytest.raises(UsageError, match=r"finetune\.modes is empty"):
        fusion.run(cohort, out, Finetune(), out)
    with pytest.raises(UsageError, match="answer pneumonia, not no_finding"):
        fusion.run(cohort, out, ALL.model_copy(update={"label": "no_finding"}), out)
    with pytest.raises(DatasetError, match="no finished fine-tuning"):
        fusion.run(cohort, out, ALL.model_copy(update={"modes": ("end_to_end",)}), out)
    other = make_dataset(tmp_path / "other", seed=3)
    with pytest.raises(DatasetError, match="made from another dataset"):
        fusion.run(other, out, ALL, out)
    card = json.loads((out / "linear" / "gated" / "card.json").read_text())
    write_json(out / "linear" / "gated" / "card.json", {**card, "encoder_weights": "1"})
    with pytest.raises(UsageError, match="of several encoders"):
        fusion.run(cohort, out, ALL, out)
    assert not (out / fusion.FACTS).exists()
    assert fusion.refused(out, "pneumonia", "insufficient data") == "No fine-tuning for pneumonia: insufficient data.\n"
    assert json.loads((out / fusion.FACTS).read_text())["answered"] is False
