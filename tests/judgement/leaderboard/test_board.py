import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from made_vectors import make_vectors
from making import make_dataset

from hilum.errors import DatasetError, UsageError
from hilum.judgement.leaderboard import board as leaderboard
from hilum.judgement.probing import probes
from hilum.recipe import Probe

QUICK = Probe(bootstrap=200, min_cases=3, c_grid=(1.0,), kernels=("rbf",))


@pytest.fixture(scope="module")
def probed(tmp_path_factory, tiny_dataset):
    folder = tmp_path_factory.mktemp("board")
    for encoder, signal in (("pixels", 0.5), ("strong", 4.0), ("twin", 0.5)):
        vectors = make_vectors(tiny_dataset, folder / "vectors" / encoder, encoder, signal)
        probes.run(tiny_dataset, vectors, QUICK, folder / encoder)
    return folder


def test_board_is_wide_and_starts_with_the_floor(probed, tmp_path):
    board = leaderboard.run([probed / "strong", probed / "pixels", probed / "twin"], tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "leaderboard.csv"), board, check_dtype=False)
    assert list(board["encoder"]) == ["pixels", "strong", "twin"]
    scores = pd.read_csv(probed / "strong" / "scores.csv")
    sex = scores[(scores["task"] == "sex") & (scores["metric"] == "balanced_accuracy")].iloc[0]
    strong = board.set_index("encoder").loc["strong"]
    for name in ("low", "high", "n", "chance"):
        assert strong[f"sex_balanced_accuracy_{name}"] == sex[name]
    assert strong["sex_balanced_accuracy"] == sex["value"]
    for stem in ("view_balanced_accuracy", "age_mae", "pneumonia_auroc", "findings_mean_auroc"):
        assert np.isfinite(strong[stem])
    assert np.isnan(board.set_index("encoder").loc["pixels", "age_mae_gain"])
    assert strong["age_mae_standing"] == "best"


def test_gain_is_the_difference_and_points_to_the_better(probed, tmp_path):
    board = leaderboard.run([probed / "strong", probed / "pixels"], tmp_path).set_index("encoder")
    for stem, sign in (("sex_balanced_accuracy", 1), ("pneumonia_auroc", 1), ("age_mae", -1)):
        difference = sign * (board.loc["strong", stem] - board.loc["pixels", stem])
        assert board.loc["strong", f"{stem}_gain"] == pytest.approx(difference)
        assert board.loc["strong", f"{stem}_gain_low"] <= difference <= board.loc["strong", f"{stem}_gain_high"]
    assert board.loc["strong", "age_mae_gain_low"] > 0


def test_pages_say_what_may_not_be_concluded(probed, tmp_path):
    leaderboard.run([probed / "strong", probed / "pixels"], tmp_path)
    html, text = (tmp_path / "leaderboard.html").read_text(), (tmp_path / "leaderboard.md").read_text()
    for page in (html, text):
        assert "no order of merit" in page
        assert "corrected over all pairs of the column (Holm 1979)" in page
        assert "No correction was made" not in page
        assert "made by a test" in page  # the dataset's caution
        assert "better" in page
        assert re.search(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", re.sub("<[^>]*>", "", page))
        assert json.loads((probed / "pixels" / "probe.json").read_text())["run"]["data_digest"] in page
        assert "p001" not in page
    assert not re.search(r'(src|href)="(https?:)?//', html)
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_a_page_names_the_best_only_where_it_is_established(probed, tmp_path):
    board = leaderboard.run([probed / "strong", probed / "pixels", probed / "twin"], tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    compared = pd.read_csv(tmp_path / "comparisons.csv")
    for stem in ("sex_balanced_accuracy", "age_mae", "pneumonia_auroc", "findings_mean_auroc"):
        pairs = compared[compared["column"] == stem]
        assert len(pairs) == 3
        assert (pairs["p_holm"] >= pairs["p"]).all()
        lost = pairs[(pairs["b"] == "strong probe") | (pairs["a"] == "strong probe")]
        standing = dict(zip(board["encoder"], board[f"{stem}_standing"], strict=True))
        assert (standing["strong"] == "best") == (lost["p_holm"] < 0.05).all()
        assert (standing["strong"] == "best") != ("tied" in standing.values())
    scores = text.split("### What each column establishes")[0]
    assert scores.count(" best |") == sum((board[name] == "best").sum() for name in board if name.endswith("_standing"))
    assert scores.count("**") == 2 * scores.count(" best |")
    assert "strong is best: better than each of the 2 others" in text
    assert "no order can be established between" in text


def test_without_the_floor_there_is_no_leaderboard(probed, tmp_path):
    with pytest.raises(UsageError, match="no `pixels` among the probes of XR"):
        leaderboard.run([probed / "strong"], tmp_path / "out")
    with pytest.raises(UsageError, match="no `pixels`"):
        leaderboard.run([], tmp_path / "out")
    with pytest.raises(UsageError, match="there twice"):
        leaderboard.run([probed / "pixels", probed / "pixels"], tmp_path / "out")
    with pytest.raises(DatasetError, match="holds no probe"):
        leaderboard.run([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_like_is_compared_with_like(probed, tmp_path, tiny_dataset):
    probes.run(
        tiny_dataset, probed / "vectors" / "strong", QUICK.model_copy(update={"seed": 1}), tmp_path / "otherwise"
    )
    with pytest.raises(UsageError, match="differ in their probe recipe"):
        leaderboard.run([probed / "pixels", tmp_path / "otherwise"], tmp_path / "out")
    shutil.copytree(probed / "strong", tmp_path / "elsewhere")
    said = json.loads((tmp_path / "elsewhere" / "probe.json").read_text())
    said["run"]["data_digest"] = "f" * 64
    (tmp_path / "elsewhere" / "probe.json").write_text(json.dumps(said))
    with pytest.raises(UsageError, match="no `pixels` among the probes of XR in folder ffffffff"):
        leaderboard.run([probed / "pixels", tmp_path / "elsewhere"], tmp_path / "out")


def test_modalities_side_by_side_and_blanks_explained(probed, tmp_path, tiny_dataset):
    # Made with the same seed, so with the same digest: in a run both modalities come from one dataset.
    slices = make_dataset(tmp_path / "mr", n_patients=20, modality="MR")
    vectors = make_vectors(slices, tmp_path / "vectors", "pixels", 1.0, modality="MR")
    probes.run(slices, vectors, QUICK, tmp_path / "mr-pixels")
    board = leaderboard.run([tmp_path / "mr-pixels", probed / "pixels"], tmp_path / "out")
    assert list(board["modality"]) == ["XR", "MR"]
    assert np.isnan(board.set_index("modality").loc["MR", "pneumonia_auroc"])
    assert "insufficient data" in board.set_index("modality").loc["MR", "pneumonia_auroc_note"]
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "insufficient data" in text
    assert "## MRI (MR)" in text
    assert "nan" not in text.lower()
