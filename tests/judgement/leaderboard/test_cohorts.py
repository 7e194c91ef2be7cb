"""What may stand on one leaderboard: probes of several datasets, fine-tunings of them, and nothing mixed."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from made_answers import make_ladder
from made_vectors import make_vectors
from making import make_dataset

from hilum.errors import DatasetError, UsageError
from hilum.judgement.fusion import ladder
from hilum.judgement.leaderboard import board as leaderboard
from hilum.judgement.probing import probes
from hilum.recipe import Probe

QUICK = Probe(bootstrap=100, min_cases=3, c_grid=(1.0,), scalings=("whole",), kernels=("rbf",))
FAR = 5 * 16**63  # a seed whose digest begins otherwise
SIGNALS = {"pixels": 0.3, "moco": 3.0}


def edit(path, **facts):
    held = json.loads(path.read_text())
    for key, value in facts.items():
        held[key] = {**held[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(held))


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory, tiny_dataset):
    """Two datasets, `near` and `far`, each with probes of two encoders and a ladder of one."""
    root = tmp_path_factory.mktemp("cohorts")
    for name, dataset in (("near", tiny_dataset), ("far", make_dataset(root / "dataset", n_patients=100, seed=FAR))):
        for encoder, signal in SIGNALS.items():
            vectors = make_vectors(dataset, root / name / "vectors" / encoder, encoder, signal)
            probes.run(dataset, vectors, QUICK, root / name / encoder)
            edit(root / name / encoder / "probe.json", layout=name)
        make_ladder(dataset, root / name / "vectors" / "moco", root / name / "tuned")
    return root


def of(cohorts, *names):
    return [cohorts / name / encoder for name in names for encoder in SIGNALS]


def changed(source, out, file, **facts):
    shutil.copytree(source, out)
    edit(out / file, **facts)
    return out


def test_each_cohort_has_columns_and_comparisons_of_its_own(cohorts, tmp_path):
    tuned = [cohorts / name / "tuned" for name in ("near", "far")]
    board = leaderboard.run(of(cohorts, "near", "far"), tmp_path, tuned)
    assert list(dict.fromkeys(board["cohort"])) == ["near", "far"]
    assert set(board["way"]) == {
        "probe", "linear", "linear, stacked", "end-to-end", "end-to-end, stacked", "covariates only",
    }  # fmt: skip
    compared = pd.read_csv(tmp_path / "comparisons.csv", keep_default_na=False)
    together = leaderboard.run(of(cohorts, "near"), tmp_path / "one", tuned[:1])
    own = board[board["cohort"] == "near"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own[together.columns], together, check_dtype=False)  # the other changes nothing
    alone = pd.read_csv(tmp_path / "one" / "comparisons.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(compared[compared["cohort"] == "near"].reset_index(drop=True), alone)
    text = (tmp_path / "leaderboard.md").read_text()
    shared = text.split("## X-ray (XR): pneumonia in each cohort")[1].split("\n## ")[0]
    header, _, *lines = [line for line in shared.splitlines() if line.startswith("|")]
    for name in ("near", "far"):
        assert f"## X-ray (XR): {name}" in text
        assert f"{name}, pneumonia, image only, AUROC" in header
        assert f"{name}, pneumonia, image + covariates, AUROC" in header
    value = board[(board["cohort"] == "far") & (board["encoder"] == "moco") & (board["way"] == "end-to-end")]
    shown = next(line for line in lines if line.startswith("| moco | end-to-end |"))
    assert f"{value['pneumonia_auroc'].item():.3f}" in shown.split("|")[5]
    digests = {
        json.loads((cohorts / name / "moco" / "probe.json").read_text())["run"]["data_digest"]
        for name in ("near", "far")
    }
    for page in (text, (tmp_path / "leaderboard.html").read_text()):
        assert all(digest in page for digest in digests)


def test_cohorts_without_a_name_of_their_own_are_told_apart_by_digest(cohorts, tmp_path):
    again = [changed(folder, tmp_path / folder.name, "probe.json", layout="near") for folder in of(cohorts, "far")]
    board = leaderboard.run([*of(cohorts, "near"), *again], tmp_path / "out")
    first, second = dict.fromkeys(board["cohort"])
    assert re.fullmatch("near [0-9a-f]{8}", first)
    assert re.fullmatch("near [0-9a-f]{8}", second)
    assert first != second


def test_tuned_rows_stand_beside_the_probes_and_are_scored_as_the_ladder_did(cohorts, tmp_path):
    board = leaderboard.run(of(cohorts, "near"), tmp_path, [cohorts / "near" / "tuned"])
    rows = board.set_index(["encoder", "way"])
    scores = pd.read_csv(cohorts / "near" / "tuned" / "fusion.csv")
    scores = scores[(scores["rows"] == "all") & (scores["metric"] == "auroc")].set_index(["mode", "fusion"])
    for way, mode in (("linear", "linear"), ("end-to-end", "end_to_end")):
        for stem, fusion, of_way in (
            ("pneumonia_auroc", "image_only", way),
            ("pneumonia_with_covariates_auroc", "gated", way),
            ("pneumonia_with_covariates_auroc", "stacking", f"{way}, stacked"),
        ):
            row, expected = rows.loc[("moco", of_way)], scores.loc[(mode, fusion)]
            assert row[stem] == expected["value"]
            assert (row[f"{stem}_low"], row[f"{stem}_high"]) == (expected["low"], expected["high"])
        assert rows.loc[("moco", way), "pneumonia_with_covariates_auroc_fusion"] == "gated"
        assert np.isnan(rows.loc[("moco", way), "sex_balanced_accuracy"])
    alone = rows.loc[("", "covariates only")]
    assert alone["pneumonia_with_covariates_auroc"] == scores.loc[("none", "tabular_only"), "value"]
    assert np.isnan(alone["pneumonia_auroc"])
    compared = pd.read_csv(tmp_path / "comparisons.csv")
    pairs = compared[compared["column"] == "pneumonia_auroc"]
    assert len(pairs) == 6  # of pixels' and moco's probes, and the two fine-tunings, on the same images
    gained = pairs[(pairs["a"] == "pixels probe") & (pairs["b"] == "moco end-to-end")].iloc[0]
    assert rows.loc[("moco", "end-to-end"), "pneumonia_auroc_gain"] == pytest.approx(-gained["difference"])
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| none | covariates only | - |" in text
    assert "joined by gated fusion" in text


def test_a_single_fine_tuning_is_a_row_too(cohorts, tmp_path):
    folder = tmp_path / "single"
    shutil.copytree(cohorts / "near" / "tuned" / "linear" / "gated", folder)
    worth = ladder.judge(folder)["auroc"]
    board = leaderboard.run(of(cohorts, "near"), tmp_path / "out", [folder]).set_index(["encoder", "way"])
    assert board.loc[("moco", "linear"), "pneumonia_with_covariates_auroc"] == worth.value
    assert board.loc[("moco", "linear"), "pneumonia_with_covariates_auroc_standing"] == "alone"


def test_a_refused_fine_tuning_is_said_and_leaves_no_column(cohorts, tmp_path):
    ladder.refused(tmp_path / "refused", "pneumonia", "insufficient data: train has 2 patients with pneumonia")
    board = leaderboard.run(of(cohorts, "near"), tmp_path / "out", [tmp_path / "refused"])
    assert set(board["way"]) == {"probe"}
    said = "Not fine-tuned for pneumonia: insufficient data: train has 2 patients"
    assert said in (tmp_path / "out" / "leaderboard.md").read_text()
    assert said in (tmp_path / "out" / "leaderboard.html").read_text()


def test_mixing_is_refused(cohorts, tmp_path):
    out, near = tmp_path / "out", of(cohorts, "near")
    tuned = cohorts / "near" / "tuned"
    with pytest.raises(UsageError, match=r"no `pixels` among the probes of XR in far"):
        leaderboard.run([*near, cohorts / "far" / "moco"], out)
    with pytest.raises(UsageError, match="fine-tuned on XR of a dataset of which there is no probe"):
        leaderboard.run(near, out, [cohorts / "far" / "tuned"])
    with pytest.raises(UsageError, match=r"'moco' is fine-tuned twice \(linear"):
        leaderboard.run(near, out, [tuned, tuned])
    relabelled = changed(cohorts / "far" / "tuned", tmp_path / "label", "fusion.json", label="effusion")
    with pytest.raises(UsageError, match=r"fine-tunings differ in their fine-tuned label \(effusion, pneumonia\)"):
        leaderboard.run(of(cohorts, "near", "far"), out, [tuned, relabelled])
    other = changed(cohorts / "near" / "moco", tmp_path / "other", "probe.json", label="no_finding")
    with pytest.raises(UsageError, match=r"probes differ in their label \(no_finding, pneumonia\)"):
        leaderboard.run([near[0], other], out)
    retrained = changed(
        cohorts / "far" / "moco", tmp_path / "retrained", "probe.json", embedding_run={"recipe_digest": "another"}
    )
    with pytest.raises(UsageError, match="'moco' for XR stands for two encoders: they differ in their training recipe"):
        leaderboard.run([*near, cohorts / "far" / "pixels", retrained], out)
    learnt = [
        changed(cohorts / name / "moco", tmp_path / f"learnt-{name}", "probe.json", encoder_weights=digit * 64)
        for name, digit in (("near", "1"), ("far", "2"))
    ]
    with pytest.raises(UsageError, match="'moco' for XR stands for two encoders: they differ in their weights"):
        leaderboard.run([near[0], cohorts / "far" / "pixels", *learnt], out)
    with pytest.raises(DatasetError, match="holds no scored fine-tuning"):
        leaderboard.run(near, out, [tmp_path])
    assert not out.exists()


def test_fine_tunings_of_other_weights_or_by_another_recipe_are_refused(cohorts, tmp_path):
    tuned = cohorts / "near" / "tuned"
    for name, facts, message in (
        ("weights", {"encoder_weights": "1" * 64}, "they differ in their weights"),
        ("recipe", {"run": {"recipe_digest": "another"}}, r"differ in their recipe \(linear, gated\)"),
    ):
        shutil.copytree(cohorts / "far" / "tuned", tmp_path / name)
        cards = [tmp_path / name / "linear" / "gated" / "card.json"]
        if name == "weights":
            cards = sorted((tmp_path / name).rglob("card.json"))
        for card in cards:
            edit(card, **facts)
        with pytest.raises(UsageError, match=message):
            leaderboard.run(of(cohorts, "near", "far"), tmp_path / "out", [tuned, tmp_path / name])
