import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_vectors import make_vectors
from making import make_dataset
from sklearn import metrics

from hilum.data import parquet
from hilum.data.store import FACTS, MANIFEST, Dataset
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError
from hilum.judgement.probing import mlp, probes, tasks
from hilum.recipe import Probe

QUICK = Probe(bootstrap=200, min_cases=3, c_grid=(1.0,))


@pytest.fixture(scope="module")
def probed(tmp_path_factory, tiny_dataset):
    folder = tmp_path_factory.mktemp("probed")
    vectors = make_vectors(tiny_dataset, folder / "vectors", "made", signal=3.0)
    scores = probes.run(tiny_dataset, vectors, QUICK, folder / "out")
    return folder, scores, Dataset.open(tiny_dataset).manifest


def of(scores, task, metric, kernel="rbf"):
    return scores[(scores["task"] == task) & (scores["metric"] == metric) & (scores["kernel"] == kernel)].iloc[0]


def test_scores_have_interval_n_and_chance(probed):
    folder, scores, table = probed
    assert tuple(scores.columns) == probes.COLUMNS
    assert set(scores["task"]) == {"sex", "view", "site", "age", "pneumonia", "no_finding", "findings_mean"}
    assert (scores["low"] <= scores["value"]).all()
    assert (scores["value"] <= scores["high"]).all()
    n_test = int((table["split"] == "test").sum())
    assert of(scores, "sex", "auroc")["n"] == n_test
    assert of(scores, "sex", "auroc")["n_patients"] == 12
    assert of(scores, "sex", "auroc")["n_positive"] == ((table["split"] == "test") & (table["sex"] == "F")).sum()
    assert of(scores, "view", "balanced_accuracy")["chance"] == 0.5
    train, test = (table.loc[table["split"] == split, "age_years"] for split in ("train", "test"))
    assert of(scores, "age", "mae")["chance"] == pytest.approx((test - train.mean()).abs().mean())
    assert of(scores, "sex", "balanced_accuracy")["value"] > 0.8  # planted
    pd.testing.assert_frame_equal(pd.read_csv(folder / "out" / "scores.csv"), scores, check_dtype=False)


def test_predictions_give_back_every_score(probed):
    folder, scores, table = probed
    predictions = pd.read_parquet(folder / "out" / "predictions.parquet")
    assert set(table["split"].iloc[predictions["row"]]) == {"test"}
    assert "patient_id" not in predictions
    for kernel in ("linear", "rbf"):
        named = dict(iter(predictions[predictions["kernel"] == kernel].groupby("task")))
        for task in ("sex", "pneumonia", "no_finding"):
            truth, score = named[task]["truth"], named[task]["score"]
            assert of(scores, task, "auroc", kernel)["value"] == pytest.approx(metrics.roc_auc_score(truth, score))
            assert of(scores, task, "balanced_accuracy", kernel)["value"] == pytest.approx(
                metrics.balanced_accuracy_score(truth, score > 0)
            )
        age = named["age"]
        assert of(scores, "age", "mae", kernel)["value"] == pytest.approx((age["truth"] - age["score"]).abs().mean())
        assert of(scores, "age", "r2", kernel)["value"] == pytest.approx(metrics.r2_score(age["truth"], age["score"]))
        views = np.stack([named["view=AP"]["score"], named["view=PA"]["score"]], axis=1)
        assert of(scores, "view", "balanced_accuracy", kernel)["value"] == pytest.approx(
            metrics.balanced_accuracy_score(named["view=PA"]["truth"], views.argmax(1))
        )
        assert (
            of(scores, "findings_mean", "auroc", kernel)["value"] == of(scores, "pneumonia", "auroc", kernel)["value"]
        )


def test_unknown_labels_take_no_part(probed):
    folder, scores, table = probed
    known = (table["split"] == "test") & table["pneumonia"].notna()
    assert 0 < known.sum() < (table["split"] == "test").sum()
    assert of(scores, "pneumonia", "auroc")["n"] == known.sum()
    predictions = pd.read_parquet(folder / "out" / "predictions.parquet")
    rows = predictions.loc[predictions["task"] == "pneumonia", "row"].unique()
    assert set(rows) == set(np.flatnonzero(known))


def test_facts_name_the_run_and_nobody(probed):
    folder, _, table = probed
    said = json.loads((folder / "out" / "probe.json").read_text())
    assert (said["encoder"], said["modality"], said["dim"], said["headline_kernel"]) == ("made", "XR", 8, "rbf")
    assert set(said["run"]) == {"code_revision", "data_digest", "recipe_digest"}
    text = (folder / "out" / "probe.json").read_text() + (folder / "out" / "scores.csv").read_text()
    assert not any(patient in text for patient in table["patient_id"])
    assert not list((folder / "out").glob("*.partial"))


def test_same_input_same_numbers(probed, tmp_path, tiny_dataset):
    folder, scores, _ = probed
    again = probes.run(tiny_dataset, folder / "vectors", QUICK, tmp_path / "again")
    pd.testing.assert_frame_equal(scores, again)


def test_noise_scores_at_chance(tmp_path):
    dataset = make_dataset(tmp_path / "dataset", n_patients=300, size=16)
    vectors = make_vectors(dataset, tmp_path / "vectors", "noise", signal=0.0)
    scores = probes.run(dataset, vectors, Probe(bootstrap=200, kernels=("linear",)), tmp_path / "out")
    auroc = scores[(scores["metric"] == "auroc") & (scores["task"] != "findings_mean")]
    assert len(auroc) == 5
    assert (auroc["value"] - 0.5).abs().max() < 0.2
    assert ((auroc["low"] < 0.5) & (auroc["high"] > 0.5)).sum() >= 4


def test_too_few_cases_are_said(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=3.0)
    recipe = Probe(bootstrap=100, min_cases=7, kernels=("rbf",))
    scores = probes.run(tiny_dataset, vectors, recipe, tmp_path / "out", label="fracture")
    few = of(scores, "pneumonia", "auroc")
    assert np.isnan(few["value"])
    assert "insufficient data" in few["note"]
    assert "needed: 7" in few["note"]
    assert few["n"] > 0
    assert "no label fracture" in of(scores, "fracture", "auroc")["note"]
    assert "no label has enough cases" in of(scores, "findings_mean", "auroc")["note"]


def test_folds_score_every_row_once(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=3.0)
    recipe = Probe(bootstrap=100, min_cases=3, kernels=("rbf",), c_grid=(1.0,), folds=4)
    scores = probes.run(tiny_dataset, vectors, recipe, tmp_path / "out")
    assert of(scores, "sex", "auroc")["n"] == 120
    assert of(scores, "sex", "auroc")["value"] > 0.9
    predictions = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    sex = predictions[predictions["task"] == "sex"]
    assert sorted(sex["row"]) == list(range(120))
    assert sex.groupby("patient")["fold"].nunique().max() == 1
    assert set(sex["split"]) == {"fold"}


def test_parts_never_share_a_patient():
    table = pd.DataFrame({"patient_id": [f"p{i // 3}" for i in range(90)], "split": "train"})
    asked = tasks.parts(table, 5, seed=1)
    for part in asked:
        assert not set(table["patient_id"].iloc[part.train]) & set(table["patient_id"].iloc[part.test])
        assert len(part.test) == 18
    assert sorted(np.concatenate([part.test for part in asked])) == list(range(90))
    moved = table.iloc[::-1].reset_index(drop=True)
    again = tasks.fold_of(moved["patient_id"], 5, 1)
    np.testing.assert_array_equal(again[::-1], tasks.fold_of(table["patient_id"], 5, 1))


def test_rare_classes_are_left_out_and_counted():
    table = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(60)],
            "split": ["train", "test"] * 30,
            "view": ["PA"] * 28 + ["AP"] * 28 + ["LATERAL"] * 4,
            "site": "one",
            "sex": np.nan,
            "age_years": np.nan,
        }
    )
    asked = {task.name: task for task in tasks.ask(table, pd.DataFrame(), tasks.parts(table, 0, 0), 5)}
    assert asked["view"].classes == ("AP", "PA")
    assert asked["view"].note == "1 rare classes (4 images) left out"
    assert np.isnan(asked["view"].y_N[-4:]).all()
    assert "site" not in asked, "one site leaves nothing to ask"
    assert asked["sex"].short == "insufficient data: known for no image"
    assert "patients with a known value in train: 0" in asked["age"].short


def test_vectors_of_another_dataset_are_refused(tmp_path, tiny_dataset):
    other = make_dataset(tmp_path / "other", n_patients=20, seed=7)
    vectors = make_vectors(other, tmp_path / "vectors", "made", signal=1.0)
    with pytest.raises(DatasetError):
        probes.run(tiny_dataset, vectors, QUICK, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_decisions_and_probabilities_are_in_the_predictions(probed):
    folder, scores, table = probed
    predictions = pd.read_parquet(folder / "out" / "predictions.parquet")
    for kernel in ("linear", "rbf"):
        found = predictions[(predictions["kernel"] == kernel) & (predictions["task"] == "pneumonia")]
        y, p, called = (found[name].to_numpy() for name in ("truth", "probability", "called"))
        assert of(scores, "pneumonia", "sensitivity", kernel)["value"] == pytest.approx(metrics.recall_score(y, called))
        assert of(scores, "pneumonia", "specificity", kernel)["value"] == pytest.approx((called[y == 0] == 0).mean())
        assert of(scores, "pneumonia", "brier", kernel)["value"] == pytest.approx(metrics.brier_score_loss(y, p))
        assert of(scores, "pneumonia", "auprc", kernel)["value"] == pytest.approx(
            metrics.average_precision_score(y, found["score"])
        )
        assert of(scores, "pneumonia", "auprc", kernel)["chance"] == pytest.approx(y.mean())
        assert of(scores, "pneumonia", "sensitivity", kernel)["chance"] == pytest.approx(called.mean())
        train = table.loc[table["split"] == "train", "pneumonia"].mean()
        brier = of(scores, "pneumonia", "brier", kernel)
        assert brier["chance"] == pytest.approx(((train - y) ** 2).mean())
        assert brier["chance_low"] <= brier["chance"] <= brier["chance_high"]
        assert np.corrcoef(p, found["score"])[0, 1] > 0.9, "the probability rises with the margin"
    views = predictions[predictions["task"].str.startswith("view=")]
    assert views[["probability", "called"]].isna().all(axis=None)


def test_the_threshold_is_locked_without_the_test_split(probed, tmp_path, tiny_dataset):
    """Test rows that are all alike get other scores; their threshold is the same, so all are called alike."""
    folder, _, table = probed
    embedded = Vectors.open(folder / "vectors")
    z = np.array(embedded.z_ND)
    test = (table["split"] == "test").to_numpy()
    other = z.copy()
    other[test] = other[test][::-1]
    replace(embedded, z_ND=other).write(tmp_path / "vectors")
    probes.run(tiny_dataset, tmp_path / "vectors", QUICK, tmp_path / "out")
    one, two = (pd.read_parquet(path / "predictions.parquet") for path in (folder / "out", tmp_path / "out"))
    one, two = (table[(table["task"] == "sex") & (table["kernel"] == "rbf")] for table in (one, two))
    for name in ("score", "probability", "called"):  # a score is turned into the same probability and decision
        np.testing.assert_allclose(one.sort_values("score")[name], two.sort_values("score")[name], rtol=1e-6, atol=1e-9)


def test_folds_pool_decisions_and_rank_within_a_fold(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=2.0)
    recipe = Probe(bootstrap=100, min_cases=3, kernels=("rbf",), c_grid=(1.0,), folds=3)
    scores = probes.run(tiny_dataset, vectors, recipe, tmp_path / "out")
    found = pd.read_parquet(tmp_path / "out" / "predictions.parquet").query("task == 'sex'")
    by_fold = [
        (metrics.average_precision_score(part["truth"], part["score"]), part["truth"].sum())
        for _, part in found.groupby("fold")
    ]
    expected = sum(area * n for area, n in by_fold) / sum(n for _, n in by_fold)
    assert of(scores, "sex", "auprc")["value"] == pytest.approx(expected)
    assert of(scores, "sex", "sensitivity")["value"] == pytest.approx(
        metrics.recall_score(found["truth"], found["called"])
    )


def with_columns(path, **columns):
    """A made dataset with further columns: labels, covariates or attributes, by the kind of their values."""
    make_dataset(path, n_patients=150, size=16)
    table = parquet.read(path / MANIFEST)
    facts = json.loads((path / FACTS).read_text())
    for name, (kind, values) in columns.items():
        table[name] = values(table)
        facts[kind] = [*facts[kind], *([name] if name not in facts[kind] else [])]
    parquet.write(table, path / MANIFEST)
    (path / FACTS).write_text(json.dumps(facts))
    return path


def test_attributes_and_body_measures_of_the_dataset_are_asked_for(tmp_path):
    random = np.random.default_rng(0)
    dataset = with_columns(
        tmp_path / "dataset",
        weight_kg=("covariates", lambda t: 60 + 15 * (t["sex"] == "M") + random.normal(size=len(t))),
        ward=("attributes", lambda t: np.where(t["sex"] == "F", "north", "south")),
        note=("attributes", lambda t: [f"text {i}" for i in range(len(t))]),
    )
    path = dataset / MANIFEST
    parquet.write(parquet.read(path).assign(source=lambda t: np.where(t["view"] == "PA", "a", "b")), path)
    vectors = make_vectors(dataset, tmp_path / "vectors", "made", signal=3.0)
    recipe = Probe(bootstrap=100, min_cases=3, kernels=("linear",), c_grid=(1.0,))
    scores = probes.run(dataset, vectors, recipe, tmp_path / "out")
    assert {"source", "ward", "weight_kg"} <= set(scores["task"])
    assert not {"note", "o2_saturation_pct"} & set(scores["task"]), "a text is no class, and oxygen no body measure"
    assert of(scores, "ward", "balanced_accuracy", "linear")["value"] > 0.85
    assert of(scores, "source", "auroc", "linear")["value"] > 0.85
    weight = of(scores, "weight_kg", "mae", "linear")
    assert weight["value"] < weight["chance"] / 2


def test_the_mean_of_five_is_of_those_five(tmp_path):
    def label(k):
        return lambda table: table["pneumonia"].fillna(0) if k % 2 else (table["sex"] == "F").astype(float)

    five = {name: ("labels", label(k)) for k, name in enumerate(tasks.COMPETITION)}
    dataset = with_columns(tmp_path / "dataset", **five)
    vectors = make_vectors(dataset, tmp_path / "vectors", "made", signal=2.0)
    recipe = Probe(bootstrap=100, min_cases=3, kernels=("linear",), c_grid=(1.0,))
    scores = probes.run(dataset, vectors, recipe, tmp_path / "out")
    mean = of(scores, "competition_mean", "auroc", "linear")
    each = [of(scores, name, "auroc", "linear")["value"] for name in tasks.COMPETITION]
    assert mean["value"] == pytest.approx(np.mean(each))
    assert of(scores, "findings_mean", "auroc", "linear")["value"] == pytest.approx(
        np.mean([*each, of(scores, "pneumonia", "auroc", "linear")["value"]])
    )
    path = dataset / MANIFEST
    parquet.write(parquet.read(path).assign(edema=0.0), path)
    scores = probes.run(dataset, vectors, recipe, tmp_path / "out")
    short = of(scores, "competition_mean", "auroc", "linear")
    assert np.isnan(short["value"])
    assert "too few cases of edema" in short["note"]


def test_uncertain_labels_are_learnt_as_the_recipe_says_and_never_scored(tmp_path):
    """Uncertain edema is edema here: U-Ones learns from twice as many positives as ignoring them does."""
    random = np.random.default_rng(1)

    def uncertain(table):
        return table["pneumonia"].where((table["pneumonia"] != 1) | (random.random(len(table)) < 0.5), -1.0)

    dataset = with_columns(tmp_path / "dataset", edema=("labels", uncertain))
    vectors = make_vectors(dataset, tmp_path / "vectors", "made", signal=2.0)
    table = Dataset.open(dataset).manifest
    recipe = Probe(bootstrap=100, min_cases=3, kernels=("linear",), c_grid=(1.0,))
    told = {}
    for policy in ("ones", "ignore"):
        asked = recipe.model_copy(update={"uncertain": {"edema": policy}})
        scores = probes.run(dataset, vectors, asked, tmp_path / policy)
        told[policy] = of(scores, "edema", "auroc", "linear")
        assert told[policy]["n"] == ((table["split"] == "test") & table["edema"].isin([0, 1])).sum()
    n = ((table["split"] == "train") & (table["edema"] == -1)).sum()
    assert f"{n} uncertain labels fitted on" in told["ones"]["note"]
    assert "uncertain" not in told["ignore"]["note"]
    one, two = (pd.read_parquet(tmp_path / policy / "predictions.parquet") for policy in told)
    assert not np.allclose(*(t.loc[t["task"] == "edema", "score"] for t in (one, two)))
    pd.testing.assert_frame_equal(*(t[t["task"] == "pneumonia"] for t in (one, two)))


@pytest.mark.parametrize("machine", ["logistic", "knn", "mlp"])
def test_every_other_machine_answers_every_task(machine, tmp_path, tiny_dataset, monkeypatch):
    monkeypatch.setattr(mlp, "EPOCHS", (1, 20))
    monkeypatch.setattr(mlp, "HIDDEN", 16)
    monkeypatch.setattr(mlp, "RATE", 1e-2)
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=3.0)
    recipe = QUICK.model_copy(update={"kernels": (machine,), "scalings": ("feature",)})
    scores = probes.run(tiny_dataset, vectors, recipe, tmp_path / "out")
    assert set(scores["kernel"]) == {machine}
    assert scores["value"].notna().all()
    assert of(scores, "sex", "auroc", machine)["value"] > 0.8
    assert json.loads((tmp_path / "out" / "probe.json").read_text())["headline_kernel"] == machine
