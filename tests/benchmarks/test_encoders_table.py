"""The encoders' table: who may see whom, paired comparisons, corrected p-values, and the page."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from making import make_dataset

from hilum.data import parquet
from hilum.data.store import FACTS, MANIFEST, Dataset
from hilum.errors import DatasetError, TrainingError
from hilum.judgement import stats
from hilum.judgement.leaderboard import paired
from hilum.recipe import read

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import encoders  # noqa: E402
import encoders_page as page  # noqa: E402


def make(path: Path, layout: str, seed: int, n_patients: int = 20) -> Dataset:
    make_dataset(path, n_patients=n_patients, seed=seed)
    table = parquet.read(path / MANIFEST).assign(source=layout)
    table.insert(12, "pleural_effusion", table["pneumonia"])
    table.insert(12, "cardiomegaly", table["no_finding"])
    parquet.write(table, path / MANIFEST)
    facts = json.loads((path / FACTS).read_text())
    labels = ["cardiomegaly", "pleural_effusion", "pneumonia", "no_finding"]
    (path / FACTS).write_text(json.dumps({**facts, "layout": layout, "labels": labels}))
    return Dataset.open(path)


@pytest.fixture
def cohort(tmp_path: Path) -> Dataset:
    return make(tmp_path / "nih", "nih", 0)


def test_every_image_is_held_out_once_and_its_patient_never_trained_on(cohort: Dataset, tmp_path: Path) -> None:
    other = make(tmp_path / "kermany", "kermany", 1)
    parts = encoders.divided(cohort, [other], 3, 0, tmp_path / "parts")
    held_out: list[str] = []
    for part in parts:
        asked, learnt = Dataset.open(part.asked), Dataset.open(part.pretrained_on)
        tested = asked.manifest[asked.manifest["split"] == "test"]
        trained = learnt.manifest[learnt.manifest["split"] == "train"]
        held_out += list(tested["image_id"])
        assert not {f"nih:{patient}" for patient in tested["patient_id"]} & set(trained["patient_id"])
        assert len(trained) == len(cohort.manifest) - len(tested) + len(other.manifest)
        assert asked.facts.labels == ("no_finding", "pleural_effusion", "cardiomegaly")
        assert set(learnt.facts.labels) == {*cohort.facts.labels}
        assert np.array_equal(asked.images, cohort.images)
    assert sorted(held_out) == sorted(cohort.manifest["image_id"])
    assert len({Dataset.open(part.asked).facts.digest for part in parts}) == 3


def test_one_part_is_the_datasets_own_split(cohort: Dataset, tmp_path: Path) -> None:
    (part,) = encoders.divided(cohort, [], 1, 0, tmp_path / "parts")
    assert Dataset.open(part.asked).manifest["split"].equals(cohort.manifest["split"])
    assert Dataset.open(part.pretrained_on).manifest.equals(cohort.manifest)


def test_a_held_out_patient_or_picture_among_the_training_images_stops_it(cohort: Dataset, tmp_path: Path) -> None:
    other = make(tmp_path / "kermany", "kermany", 1)
    (part,) = encoders.divided(cohort, [other], 1, 0, tmp_path / "parts")
    asked, learnt = Dataset.open(part.asked), Dataset.open(part.pretrained_on)
    encoders.unseen(learnt, asked)
    one = np.flatnonzero(asked.manifest["split"] == "test")[0]

    learnt.manifest.loc[one, "split"] = "train"
    with pytest.raises(TrainingError, match="held-out images have a patient_id"):
        encoders.unseen(learnt, asked)
    learnt.manifest.loc[one, "split"] = "test"
    copy = np.flatnonzero(learnt.manifest["source"] == "kermany")[0]
    learnt.manifest.loc[copy, "pixel_digest"] = asked.manifest.loc[one, "pixel_digest"]
    with pytest.raises(TrainingError, match="held-out images have a pixel_digest"):
        encoders.unseen(learnt, asked)
    learnt.manifest["patient_id"] = "x" + learnt.manifest["patient_id"]
    with pytest.raises(TrainingError, match="nothing is checked"):
        encoders.unseen(learnt, asked)


def test_a_label_gets_its_complement(cohort: Dataset, tmp_path: Path) -> None:
    more = encoders.with_complement(cohort, "pneumonia", tmp_path / "more")
    known = more.manifest["pneumonia"].notna()
    assert (more.manifest.loc[known, ["pneumonia", "no_pneumonia"]].sum(axis=1) == 1).all()
    assert more.manifest.loc[~known, "no_pneumonia"].isna().all()
    assert not known.all()
    assert "no_pneumonia" in more.facts.labels
    assert more.facts.digest != cohort.facts.digest


def answers(task: str, kind: str, seed: int, n: int = 120, skill: float = 1.0) -> pd.DataFrame:
    """Predictions as a probe writes them, of 40 patients in 3 folds; `seed` is of the encoder, not of the truth."""
    truths, noise = np.random.default_rng(7), np.random.default_rng(seed)
    classes = {"binary": 2, "multiclass": 3, "regression": 0}[kind]
    patient = np.arange(n) % 40
    y = truths.integers(classes, size=n) if classes else truths.normal(50, 15, n)
    base = {"row": np.arange(n), "patient": patient, "kernel": "rbf", "split": "test", "fold": patient % 3}
    if kind == "multiclass":
        pieces = [
            pd.DataFrame({**base, "task": f"{task}={k}", "truth": (y == k) * 1.0,
                          "score": skill * (y == k) + noise.normal(size=n)})
            for k in range(3)
        ]  # fmt: skip
        return pd.concat(pieces, ignore_index=True)
    score = y + noise.normal(0, 8 / skill, n) if kind == "regression" else skill * y + noise.normal(size=n) - skill / 2
    return pd.DataFrame({**base, "task": task, "truth": y * 1.0, "score": score})


COLUMNS = [page.COLUMNS["nih"][3], *page.COLUMNS["oasis"]]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.task)
def test_differences_are_those_of_the_paired_bootstrap(column: page.Column) -> None:
    found = {name: [answers(column.task, column.kind, seed)] for seed, name in enumerate(("pixels", "moco"))}
    compared = page.compare(column, found, paired.REPLICATES)
    expected = paired.gain(found["moco"][0], found["pixels"][0], column.kind, column.metric)
    value, low, high = page.bounds(column.sign * (compared.values["moco"] - compared.values["pixels"]))
    assert (value, low, high) == pytest.approx((expected.value, expected.low, expected.high))
    assert (compared.n_images, compared.n_patients) == (120, 40)


def test_scores_of_several_seeds_are_averaged_not_their_answers() -> None:
    column = COLUMNS[0]
    three = [answers(column.task, column.kind, seed) for seed in (1, 2, 3)]
    together = page.compare(column, {"pixels": three}, 200)
    alone = [page.compare(column, {"pixels": [one]}, 200) for one in three]
    mean = np.mean([one.values["pixels"] for one in alone], axis=0)
    np.testing.assert_allclose(together.values["pixels"], mean)
    assert together.by_seed["pixels"] == pytest.approx([one.values["pixels"][0] for one in alone])


def test_encoders_that_answer_for_other_images_are_not_compared() -> None:
    column = COLUMNS[0]
    ours, theirs = (answers(column.task, column.kind, seed) for seed in (0, 1))
    with pytest.raises(AssertionError, match="same images"):
        page.compare(column, {"pixels": [ours], "moco": [theirs.iloc[1:]]}, 200)


def test_a_question_that_nobody_could_be_asked_is_said() -> None:
    column = COLUMNS[0]
    with pytest.raises(DatasetError, match="too few patients"):
        page.compare(column, {"pixels": [answers("sex", "binary", 0)]}, 200)
    asked = page.compare(column, {"pixels": [answers(column.task, "binary", 0).assign(truth=1.0)]}, 200)
    assert asked.facts()["scores"]["pixels"] == [None, None, None]
    json.dumps(asked.facts(), allow_nan=False)


def test_p_agrees_with_the_interval_and_is_never_zero() -> None:
    random = np.random.default_rng(0)
    for shift in (-0.3, -0.05, 0.0, 0.02, 0.2, 4.0):
        drawn = np.r_[shift, random.normal(shift, 0.1, size=4000)]
        p, (_, low, high) = stats.two_sided(drawn[1:]), page.bounds(drawn)
        assert 0 < p <= 1
        if abs(p - 0.05) > 0.002:
            assert (p < 0.05) == (low > 0 or high < 0)
    assert stats.two_sided(np.zeros(99)) == 1.0


def test_nothing_is_called_worse_when_nothing_is() -> None:
    """Eight encoders of one skill: the best is chosen on the data, and still no other is marked in most cohorts."""
    column, marked = COLUMNS[0], 0
    for cohort in range(10):
        found = {f"e{i}": [answers(column.task, column.kind, 100 * cohort + i)] for i in range(8)}
        compared = page.compare(column, found, 1000)
        p = compared.p_values()
        assert len(p) == 28
        marked += any(p[frozenset((name, compared.best))] < page.LEVEL for name in found if name != compared.best)
    assert marked <= 2


def test_the_best_of_an_error_is_the_smallest() -> None:
    age = page.COLUMNS["oasis"][2]
    found = {name: [answers("age", "regression", 1, skill=skill)] for name, skill in (("a", 1.0), ("b", 4.0))}
    compared = page.compare(age, found, 500)
    assert compared.best == "b"
    assert compared.values["b"][0] < compared.values["a"][0]


def test_the_page_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "results" / "page.md"
    page.replace(path, f"# First\n\n{page.BY_HAND}\n")
    path.write_text(path.read_text() + "\nSeen by eye.\n", encoding="utf-8")
    page.replace(path, f"# Second\n\n{page.BY_HAND}\n")
    assert path.read_text() == f"# Second\n\n{page.BY_HAND}\n\nSeen by eye.\n"


@pytest.mark.parametrize("dataset", ["nih", "oasis"])
def test_the_recipes_hold_every_encoder_and_show_them_no_answer(dataset: str) -> None:
    recipe = read(ROOT / "pipelines" / "recipes" / f"encoders-{dataset}.yaml")
    names = [encoder.name for encoder in recipe.encoders]
    assert sorted(names) == ["diffae", "discern", "imagenet", "medaug", "moco", "pixels", "supervised", "vae"]
    discern = next(encoder for encoder in recipe.encoders if encoder.name == "discern")
    asked = {column.task for column in page.COLUMNS[dataset]}
    assert discern.weight_labels
    assert not asked & set(discern.weight_labels)
    assert not discern.allow_overlap
    short = encoders.shortened(recipe, 1)
    assert all(short.train_of(name, "XR").epochs == 1 for name in names)
    assert encoders.shortened(recipe, None) is recipe


@pytest.mark.slow
def test_the_command_makes_the_page(real_data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "ingest: {preprocessing: {size: 32}}\n"
        "encoders: [{name: pixels, components: 16}, {name: supervised, labels: [dementia], backbone: {width: 16}}]\n"
        "train: {epochs: 1}\nprobe: {kernels: [rbf], min_cases: 2, c_grid: [1.0], scalings: [whole]}\n"
        "export: {encoder: supervised, label: dementia}\naudit: {label: dementia}\n"
    )
    call = ["--dataset", "oasis", "--sources", str(real_data("oasis-1").parent), "--recipe", str(recipe)]
    call += [
        "--folds",
        "2",
        "--replicates",
        "200",
        "--work",
        str(tmp_path / "work"),
        "--page",
        str(tmp_path / "page.md"),
    ]
    assert encoders.main(call) == 0
    written = (tmp_path / "page.md").read_text()
    assert "| images / patients | 588 / 196 | 588 / 196 | 588 / 196 |" in written
    assert "| `supervised` | 2 |" in written
    assert "/work" not in written.split("## What was run")[1]
    weights = sorted((tmp_path / "work").rglob("weights.pt"))
    stamps = [path.stat().st_mtime_ns for path in weights]
    assert len(weights) == 4
    assert encoders.main(call) == 0  # finished trainings are kept, and the page comes out the same
    assert [path.stat().st_mtime_ns for path in weights] == stamps
    assert (tmp_path / "page.md").read_text() == written
    assert encoders.main([*call, "--encoders", "vae"]) == 2
    assert "has no encoder vae" in capsys.readouterr().err


def test_resamples_are_of_patients_and_the_same_for_every_encoder() -> None:
    column = COLUMNS[0]
    found = {name: [answers(column.task, column.kind, seed)] for seed, name in enumerate(("pixels", "vae", "moco"))}
    whole = page.compare(column, found, 300)
    for name, other in itertools.pairwise(found):
        pair = page.compare(column, {name: found[name], other: found[other]}, 300)
        np.testing.assert_array_equal(pair.values[other], whole.values[other])
    expected = stats.patient_bootstrap(
        stats.weighted_auroc,
        found["vae"][0]["patient"].to_numpy(),
        300,
        page.SEED,
        found["vae"][0]["truth"].to_numpy(),
        found["vae"][0]["score"].to_numpy(),
        found["vae"][0]["fold"].to_numpy(),
    )
    assert page.bounds(whole.values["vae"])[1:] == pytest.approx((expected.low, expected.high))
