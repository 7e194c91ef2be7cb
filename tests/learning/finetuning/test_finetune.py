"""Fine-tuning: what it moves, what it looks at and what it never does; a killed run ends as if it had not been."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from making import make_dataset
from small_encoders import SMALL

from hilum import identity
from hilum.data import parquet
from hilum.data.store import Dataset
from hilum.errors import CheckFailed, DatasetError, TrainingError, UsageError
from hilum.judgement.leaderboard import paired
from hilum.learning import finetune, training
from hilum.learning.finetuning import fusion
from hilum.ranking import auroc
from hilum.recipe import Finetune, Train

QUICK: dict[str, Any] = {
    "linear_epochs": 6,
    "end_to_end_epochs": 6,
    "patience": 6,
    "linear_rates": (1e-3, 1e-2),
    "end_to_end_rates": (1e-3,),
}
O2 = "o2_saturation_pct"


def section(**changes: Any) -> Finetune:
    return Finetune.model_validate({**QUICK, **changes})


def card(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return said


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)
    return loaded


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[key], second[key]) for key in first)


def altered(source: Path, out: Path, change: Any, images: Any = None) -> Path:
    """A copy of a dataset, under the same digest, whose manifest (and images) were changed in place."""
    shutil.copytree(source, out)
    manifest = pd.read_parquet(out / "manifest.parquet")
    change(manifest)
    manifest.to_parquet(out / "manifest.parquet", index=False)
    if images is not None:
        pixels = np.load(out / "images.npy")
        np.save(out / "images.npy", images(pixels, manifest))
    return out


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("cohort") / "dataset", n_patients=150)


@pytest.fixture(scope="module")
def pixels(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.run(
        cohort, Train.model_validate({"encoder": SMALL["pixels"]}), tmp_path_factory.mktemp("encoders") / "pixels"
    )


@pytest.fixture(scope="module")
def moco(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With batch normalisation, whose statistics say in which mode it ran."""
    recipe = Train.model_validate({"encoder": SMALL["moco"], "epochs": 1, "batch_size": 64})
    return training.run(cohort, recipe, tmp_path_factory.mktemp("encoders") / "moco")


@pytest.fixture(scope="module")
def blind(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cohort with pure noise for images: only covariates know anything."""
    noise = np.random.default_rng(0)
    return altered(
        cohort,
        tmp_path_factory.mktemp("blind") / "dataset",
        lambda manifest: None,
        lambda x, manifest: noise.integers(0, 255, x.shape, dtype=np.uint8),
    )


def tuned(dataset: Path, encoder: Path, out: Path, kind: Any, mode: Any = "linear", **changes: Any) -> Path:
    return finetune.run(dataset, encoder, section(**changes), mode, kind, out / f"{mode}-{kind}")


@pytest.mark.parametrize("kind", fusion.BY_GRADIENTS)
def test_a_fine_tuning_says_what_it_is_and_answers_every_known_row(
    kind: str, cohort: Path, pixels: Path, tmp_path: Path
) -> None:
    out = tuned(cohort, pixels, tmp_path, kind)
    said, manifest = card(out), Dataset.open(cohort).manifest
    known = manifest[manifest["pneumonia"].notna()]
    for name, split in (("predictions", "test"), ("validation", "val")):
        answers = parquet.read(out / f"{name}.parquet")
        rows = known.index[known["split"] == split]
        assert answers["row"].tolist() == rows.tolist()  # every one of them, no incomplete batch dropped
        assert answers["truth"].tolist() == known.loc[rows, "pneumonia"].tolist()
        assert list(answers) == ["row", "patient", "task", "kernel", "split", "fold", "score", "truth"]
        assert set(answers["kernel"]) == {f"linear_{kind}"}
    unknown = manifest[manifest["pneumonia"].isna()]
    for split, counts in said["splits"].items():
        assert counts["n"] == (known["split"] == split).sum()
        assert counts["n_label_unknown"] == (unknown["split"] == split).sum() > 0
    assert [trial["learning_rate"] for trial in said["trials"]] == [1e-3, 1e-2]
    best = max(said["trials"], key=lambda trial: (trial["val_auroc"], -trial["val_loss"]))
    assert (said["learning_rate"], said["epochs"]) == (best["learning_rate"], best["best_epoch"])
    assert (said["covariates"] or {"names": []})["names"] == ([] if kind == "image_only" else [O2])
    assert said["run"]["data_digest"] == Dataset.open(cohort).facts.digest
    text = "".join((out / name).read_text(encoding="utf-8") for name in ("card.json", "recipe.json", "metrics.jsonl"))
    assert not any(patient in text for patient in manifest["patient_id"])
    assert not (out / "checkpoint.pt").exists()


def test_answers_are_those_of_the_network_that_is_kept(cohort: Path, moco: Path, tmp_path: Path) -> None:
    for mode in ("linear", "end_to_end"):
        out = tuned(cohort, moco, tmp_path, "gated", mode, linear_epochs=2, end_to_end_epochs=2)
        model, clinical, _ = finetune.load(out)
        answers, dataset = parquet.read(out / "predictions.parquet"), Dataset.open(cohort)
        assert clinical is not None
        covariates = clinical.transform(dataset.manifest.loc[answers["row"], [O2]])
        x = torch.from_numpy(dataset.images[answers["row"]].astype(np.float32) / 255.0)[:, None]
        logits = model(x, *(torch.from_numpy(part) for part in covariates))
        np.testing.assert_allclose(logits.numpy(), answers["score"], atol=1e-4)


def test_linear_leaves_the_encoder_as_it_was_and_end_to_end_starts_from_it(
    cohort: Path, moco: Path, tmp_path: Path
) -> None:
    before = {f"embedder.{key}": value for key, value in weights(moco).items()}
    linear = weights(tuned(cohort, moco, tmp_path, "image_only"))
    assert all(torch.equal(linear[key], value) for key, value in before.items())
    still = weights(
        tuned(
            cohort, moco, tmp_path / "still", "image_only", "end_to_end", end_to_end_epochs=1, end_to_end_rates=(1e-12,)
        )
    )
    statistics = [key for key in before if "running_" in key]
    assert statistics
    for key, value in before.items():
        if "running_" in key or "num_batches" in key:
            # Batch normalisation learns its statistics only in train mode.
            assert not torch.equal(still[key], value), key
        else:
            torch.testing.assert_close(still[key], value, atol=1e-6, rtol=0)
    moved = weights(tuned(cohort, moco, tmp_path, "image_only", "end_to_end", end_to_end_epochs=1))
    assert all(not torch.equal(moved[key], value) for key, value in before.items() if value.ndim > 1)


@pytest.mark.parametrize("mode", ["linear", "end_to_end"])
def test_test_labels_covariates_and_images_change_no_weight(
    mode: str, cohort: Path, moco: Path, tmp_path: Path
) -> None:
    def change(manifest: pd.DataFrame) -> None:
        test = manifest["split"] == "test"
        manifest.loc[test, "pneumonia"] = 1 - manifest.loc[test, "pneumonia"]
        manifest.loc[test, O2] = 35.0

    other = altered(
        cohort,
        tmp_path / "other",
        change,
        lambda x, manifest: np.where((manifest["split"] == "test").to_numpy()[:, None, None], 255 - x, x),
    )
    one = tuned(cohort, moco, tmp_path / "a", "gated", mode, linear_epochs=3, end_to_end_epochs=3)
    two = tuned(other, moco, tmp_path / "b", "gated", mode, linear_epochs=3, end_to_end_epochs=3)
    assert same_weights(one, two)
    assert card(one)["trials"] == card(two)["trials"]
    assert not parquet.read(one / "predictions.parquet")["score"].equals(
        parquet.read(two / "predictions.parquet")["score"]
    )


def test_val_labels_choose_but_move_nothing(cohort: Path, pixels: Path, tmp_path: Path) -> None:
    """With one trial of one epoch there is nothing to choose, and val has no say."""

    def change(manifest: pd.DataFrame) -> None:
        val = manifest["split"] == "val"
        manifest.loc[val, "pneumonia"] = 1 - manifest.loc[val, "pneumonia"]

    other = altered(cohort, tmp_path / "other", change)
    once = {"linear_epochs": 1, "linear_rates": (1e-2,)}
    one, two = (tuned(data, pixels, tmp_path / name, "gated", **once) for data, name in ((cohort, "a"), (other, "b")))
    assert same_weights(one, two)
    assert card(one)["trials"][0]["val_auroc"] == pytest.approx(1 - card(two)["trials"][0]["val_auroc"])
    one, two = (tuned(data, pixels, tmp_path / name, "gated") for data, name in ((cohort, "c"), (other, "d")))
    assert not same_weights(one, two)


def test_early_stopping_takes_the_best_epoch_and_waits_for_its_patience(
    blind: Path, pixels: Path, tmp_path: Path
) -> None:
    for stop_on, figure in (("auroc", "val_auroc"), ("log_loss", "val_loss")):
        out = tuned(
            blind,
            pixels,
            tmp_path / stop_on,
            "image_only",
            linear_epochs=40,
            patience=3,
            stop_on=stop_on,
            linear_rates=(0.03, 0.3),
        )
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for number, trial in enumerate(card(out)["trials"]):
            mine = [line for line in lines if line["trial"] == number]
            assert [line["epoch"] for line in mine] == list(range(1, trial["epochs"] + 1))
            best = (max if stop_on == "auroc" else min)(line[figure] for line in mine)
            assert mine[trial["best_epoch"] - 1][figure] == best == trial[figure]
            assert trial["epochs"] in (40, trial["best_epoch"] + 3)
        assert any(trial["epochs"] < 40 for trial in card(out)["trials"])


def test_gated_beats_the_image_alone_where_vital_signs_know_more(blind: Path, pixels: Path, tmp_path: Path) -> None:
    image, gated = (tuned(blind, pixels, tmp_path, kind, linear_epochs=30) for kind in ("image_only", "gated"))
    gain = paired.gain(*(parquet.read(out / "predictions.parquet") for out in (gated, image)), "binary", "auroc")
    assert gain.low > 0.1, gain


def test_masks_tell_what_values_do_not(blind: Path, pixels: Path, tmp_path: Path) -> None:
    """Missing not at random, and values that mean nothing: `gated` sees the gaps, `concatenation` sees zeros."""
    random = np.random.default_rng(1)

    def change(manifest: pd.DataFrame) -> None:
        manifest[O2] = random.normal(95, 2, len(manifest)).clip(80, 100)
        manifest.loc[(manifest["pneumonia"] == 0) & (random.random(len(manifest)) < 0.8), O2] = np.nan

    data = altered(blind, tmp_path / "data", change)
    score = {}
    for kind in ("concatenation", "gated"):
        answers = parquet.read(tuned(data, pixels, tmp_path, kind, linear_epochs=30) / "predictions.parquet")
        score[kind] = auroc(answers["truth"], answers["score"])
    assert score["gated"] > 0.8 > 0.7 > score["concatenation"], score


def test_every_fusion_has_the_same_budget_and_the_same_start(cohort: Path, pixels: Path, tmp_path: Path) -> None:
    recipe = section(modes=("linear",), fusions=("tabular_only", "concatenation", "stacking", "gated"), repeats=2)
    folders = finetune.ladder(cohort, pixels, recipe, tmp_path)
    assert [folder.name for folder in folders] == ["image_only", "concatenation", "gated"]
    grids = [[(t["learning_rate"], t["seed"]) for t in card(folder)["trials"]] for folder in folders]
    assert grids[0] == grids[1] == grids[2] == [(1e-3, 0), (1e-3, 1), (1e-2, 0), (1e-2, 1)]
    limits = {(said["stop_on"], said["imbalance"]) for said in map(card, folders)}
    assert len(limits) == 1
    recipes = [json.loads((folder / "recipe.json").read_text(encoding="utf-8")) for folder in folders]
    assert all({**one, "fusions": 0} == {**recipes[0], "fusions": 0} for one in recipes)
    # Features computed once for all are those that each would have computed.
    alone = finetune.run(cohort, pixels, recipe, "linear", "gated", tmp_path / "alone")
    assert same_weights(alone, folders[2])
    assert finetune.ladder(cohort, pixels, section(), tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_same_recipe_same_numbers_in_either_precision(cohort: Path, moco: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        changes = {"end_to_end_epochs": 2, "precision": precision, "imbalance": "balanced"}
        one, two = (tuned(cohort, moco, tmp_path / precision / name, "gated", "end_to_end", **changes) for name in "ab")
        assert same_weights(one, two)
        assert {value.dtype for value in weights(one).values()} <= {torch.float32, torch.int64}


RUN = """
import os, signal, sys
from pathlib import Path
from hilum.learning import finetune
from hilum.learning.engine import checkpoint
from hilum.learning.finetuning import trials
from hilum.recipe import Finetune
trials.CHECKPOINT_SECONDS = 0.0
save, saved = checkpoint.save, []

def save_and_die(*given):
    save(*given)
    saved.append(given)
    if len(saved) == 7:  # amid the second trial of five epochs
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save = save_and_die
dataset, encoder, out = (Path(sys.argv[number]) for number in (1, 2, 4))
finetune.run(dataset, encoder, Finetune.model_validate_json(sys.argv[3]), "end_to_end", "gated", out)
"""


def test_a_killed_run_goes_on_bit_for_bit(cohort: Path, moco: Path, tmp_path: Path) -> None:
    recipe = section(end_to_end_epochs=5, end_to_end_rates=(1e-3, 3e-3))
    whole = finetune.run(cohort, moco, recipe, "end_to_end", "gated", tmp_path / "whole")
    killed = tmp_path / "killed"
    environment = {
        **os.environ,
        identity.CODE_REVISION: identity.code_revision(),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    command = [sys.executable, "-c", RUN, str(cohort), str(moco), recipe.model_dump_json(), str(killed)]
    child = subprocess.run(command, env=environment, check=False, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not (killed / "card.json").exists()
    state = torch.load(killed / "checkpoint.pt", weights_only=True)
    assert len(state["trials"]) == 1  # amid the second trial
    assert state["trial"]["epoch"] >= 1
    finetune.run(cohort, moco, recipe, "end_to_end", "gated", killed)
    assert same_weights(whole, killed)
    assert card(whole) == card(killed)

    def told(folder: Path) -> list[Any]:
        read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        return [{**line, "seconds": 0} for line in read]

    assert told(whole) == told(killed)


def test_a_finished_run_is_kept_and_another_is_refused(cohort: Path, pixels: Path, moco: Path, tmp_path: Path) -> None:
    out = tuned(cohort, pixels, tmp_path, "gated")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert tuned(cohort, pixels, tmp_path, "gated") == out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(TrainingError, match="holds a fine-tuning with another recipe; name another folder"):
        tuned(cohort, pixels, tmp_path, "gated", seed=4)
    with pytest.raises(TrainingError, match="with another encoder; name another folder"):
        tuned(cohort, moco, tmp_path, "gated")


def test_too_few_patients_of_a_class_are_insufficient_data(cohort: Path, pixels: Path, tmp_path: Path) -> None:
    def change(manifest: pd.DataFrame) -> None:
        val = manifest["split"] == "val"
        ill = manifest.loc[val & (manifest["pneumonia"] == 1), "patient_id"].unique()
        manifest.loc[manifest["patient_id"].isin(ill[2:]) & val, "pneumonia"] = np.nan

    few = altered(cohort, tmp_path / "few", change)
    with pytest.raises(CheckFailed, match=r"insufficient data: val has 2 patients with pneumonia and \d+ without, at"):
        tuned(few, pixels, tmp_path / "out", "gated")


def test_what_cannot_be_is_one_clear_sentence(cohort: Path, pixels: Path, moco: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no label 'oedema'; it has pneumonia, no_finding"):
        tuned(cohort, pixels, tmp_path / "a", "gated", label="oedema")
    with pytest.raises(UsageError, match="no covariate lactate; it has o2_saturation_pct"):
        tuned(cohort, pixels, tmp_path / "b", "gated", covariates=("lactate",))
    with pytest.raises(UsageError, match="'stacking' is not trained by gradients, as image_only, concatenation, gated"):
        tuned(cohort, pixels, tmp_path / "c", "stacking")
    with pytest.raises(UsageError, match="no weights that steps could move; fine-tune it with the mode linear"):
        tuned(cohort, pixels, tmp_path / "d", "image_only", "end_to_end")
    with pytest.raises(
        TrainingError, match=r"no learning rate of 1e\+30 gave a finite loss; lower finetune\.end_to_end"
    ):
        tuned(cohort, moco, tmp_path / "e", "image_only", "end_to_end", end_to_end_rates=(1e30,))
    with pytest.raises(TrainingError, match="is an encoder run, no fine-tuning"):
        finetune.load(pixels)
    other = make_dataset(tmp_path / "small", n_patients=20, size=16)
    with pytest.raises(DatasetError, match="16 pixels wide, but the encoder was trained on 32"):
        tuned(other, pixels, tmp_path / "f", "image_only")

    def leak(manifest: pd.DataFrame) -> None:
        manifest.loc[0, "split"] = "test"

    with pytest.raises(TrainingError, match="1 patients are in more than one of train, val, test"):
        tuned(altered(cohort, tmp_path / "leak", leak), pixels, tmp_path / "g", "image_only")

    def unmeasured(manifest: pd.DataFrame) -> None:
        manifest.loc[manifest["split"] == "train", O2] = np.nan

    bare = altered(cohort, tmp_path / "bare", unmeasured)
    with pytest.raises(DatasetError, match="no covariates to fuse with: none of o2_saturation_pct has a plausible"):
        tuned(bare, pixels, tmp_path / "h", "gated")
    assert card(tuned(bare, pixels, tmp_path / "h", "image_only"))["covariates"] is None


def test_a_rate_that_diverges_does_not_lose_the_others(cohort: Path, moco: Path, tmp_path: Path) -> None:
    said = card(
        tuned(cohort, moco, tmp_path, "image_only", "end_to_end", end_to_end_epochs=2, end_to_end_rates=(1e30, 1e-3))
    )
    assert [trial["diverged"] for trial in said["trials"]] == [True, False]
    assert said["learning_rate"] == 1e-3
