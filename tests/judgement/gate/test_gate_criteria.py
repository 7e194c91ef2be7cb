"""Each criterion against evidence whose answer is known, decided on bounds and never on points."""

import numpy as np
import pandas as pd
import pytest
from made_evidence import BLANK, GOOD, SEXES, TESTED, entry, gap, group, interval, write, write_predictions
from sklearn.metrics import roc_auc_score

from hilum.errors import DatasetError, UsageError
from hilum.judgement.gate import criteria
from hilum.judgement.gate.evidence import Evidence
from hilum.recipe import Gate

SILENT = dict.fromkeys(
    ("min_auroc", "min_sensitivity", "max_auroc_gap", "max_ece", "max_shortcut", "min_group"), "not asked"
)


def ask(folder, recipe, label="pneumonia", floor=None, **evidence):
    """The criteria that a recipe asks, by name."""
    scores, findings = write(folder, **evidence)
    found = criteria.judge(Evidence.read(scores, findings, label, floor=floor), recipe, label)
    return {one.criterion: one for one in found}


def only(**tolerances):
    return Gate(**{**SILENT, **tolerances})


@pytest.mark.parametrize(
    ("low", "high", "tolerance", "at_least", "verdict"),
    [
        (0.7, 0.9, 0.6, True, "pass"),
        (0.6, 0.9, 0.6, True, "pass"),
        (0.4, 0.59, 0.6, True, "fail"),
        (0.4, 0.6, 0.6, True, "insufficient data"),
        (0.5, 0.9, 0.6, True, "insufficient data"),
        (0.0, 0.1, 0.2, False, "pass"),
        (0.0, 0.2, 0.2, False, "pass"),
        (0.21, 0.5, 0.2, False, "fail"),
        (0.2, 0.5, 0.2, False, "insufficient data"),
        (None, 0.3, 0.2, False, "insufficient data"),
        (float("nan"), float("nan"), 0.2, True, "insufficient data"),
    ],
)
def test_bounds_decide(low, high, tolerance, at_least, verdict):
    assert criteria.decide(low, high, tolerance, at_least=at_least) == verdict


@pytest.mark.parametrize(
    ("words", "worst"),
    [
        (["pass", "not asked"], "pass"),
        (["pass", "insufficient data"], "insufficient data"),
        (["insufficient data", "fail", "pass"], "fail"),
        (["not asked"], "not asked"),
        ([], "not asked"),
    ],
)
def test_the_worst_criterion_decides(words, worst):
    assert criteria.overall(words) == worst


def test_everything_that_is_good_passes_by_the_defaults(tmp_path):
    found = ask(tmp_path, Gate(), shortcuts=[entry("site", (0.9, 0.95, 0.99), (0.45, 0.5, 0.55))])
    assert {name: one.verdict for name, one in found.items()} == {
        "auroc": "pass",
        "gain": "not asked",
        "sensitivity_sex": "pass",
        "auroc_gap_sex": "pass",
        "ece": "pass",
        "group_size_sex": "pass",
        "shortcut_site": "pass",
    }
    assert (found["auroc"].value, found["auroc"].low, found["auroc"].n, found["auroc"].n_patients) == (
        *(0.85, 0.8),
        *(200, 90),
    )
    assert all(one.follows for one in found.values())


def test_the_point_alone_passes_nothing(tmp_path):
    """Every estimate is on the good side of its tolerance, and no interval is."""
    found = ask(
        tmp_path,
        Gate(),
        tested={**TESTED, "auroc": interval(0.5, 0.85, 0.9), "ece": interval(0.01, 0.02, 0.09)},
        groups=[*group("sex", "F", (0.7, 0.9, 0.95)), *group("sex", "M", GOOD)],
        gaps=[gap("sex", 0.0, 0.01, 0.2)],
        shortcuts=[entry("site", (0.5, 0.6, 0.8), (0.5, 0.6, 0.9))],
    )
    told = {name: one.verdict for name, one in found.items() if name not in ("gain", "group_size_sex")}
    assert set(told.values()) == {"insufficient data"}
    assert len(told) == 5


@pytest.mark.parametrize(
    ("groups", "verdict", "decides"),
    [
        ([("F", GOOD), ("M", (0.81, 0.9, 0.99))], "pass", "M"),
        ([("F", GOOD), ("M", (0.79, 0.9, 0.99))], "insufficient data", "M"),
        ([("F", (0.79, 0.9, 0.99)), ("M", (0.5, 0.6, 0.7))], "fail", "M"),
        ([("F", (0.5, 0.6, 0.79)), ("M", BLANK)], "fail", "F"),
        ([("F", GOOD), ("M", BLANK)], "insufficient data", ""),
        ([("F", BLANK), ("M", BLANK)], "insufficient data", ""),
    ],
)
def test_the_worst_group_decides_on_sensitivity(tmp_path, groups, verdict, decides):
    rows = [row for name, bounds in groups for row in group("sex", name, bounds)]
    one = ask(tmp_path, only(min_sensitivity=0.8), groups=rows)["sensitivity_sex"]
    assert (one.verdict, one.group) == (verdict, decides)
    small = [name for name, bounds in groups if bounds == BLANK]
    assert (f"oo few patients to judge: {', '.join(small)}" in one.reason) == bool(small)
    if decides:
        assert f"sex {decides}" in one.reason
        assert one.n == 40  # images with the finding, of which sensitivity is a share


def test_those_of_whom_the_group_is_not_known_take_no_part(tmp_path):
    found = ask(tmp_path, only(min_sensitivity=0.8, min_group=50), groups=SEXES)
    assert found["sensitivity_sex"].verdict == found["group_size_sex"].verdict == "pass"


def test_a_group_that_the_release_is_not_for_is_not_asked(tmp_path):
    rows = [*SEXES, *group("age_band", "0-20", BLANK, n_patients=3), *group("age_band", "20-40", GOOD)]
    gaps = [gap("sex", 0.0, 0.01, 0.04), gap("age_band", *BLANK)]
    asked = only(min_sensitivity=0.8, min_group=50)
    with_children = ask(tmp_path / "with", asked, groups=rows, gaps=gaps)
    assert with_children["sensitivity_age_band"].verdict == "insufficient data"
    without = ask(
        tmp_path / "without", asked.model_copy(update={"outside": ("age_band=0-20",)}), groups=rows, gaps=gaps
    )
    assert without["sensitivity_age_band"].verdict == without["group_size_age_band"].verdict == "pass"


def test_a_small_group_is_too_little_to_judge_by_and_no_fault(tmp_path):
    rows = [*group("sex", "F", GOOD, n_patients=50), *group("sex", "M", GOOD, n_patients=49)]
    one = ask(tmp_path, only(min_group=50), groups=rows)["group_size_sex"]
    assert (one.verdict, one.value, one.group) == ("insufficient data", 49, "M")
    assert "49 (sex M), at least 50 is asked for" in one.reason


def test_a_gap_that_is_proven_fails_and_one_that_the_audit_lacks_is_not_known(tmp_path):
    rows = [*SEXES, *group("site", "north", GOOD), *group("site", "south", GOOD)]
    found = ask(tmp_path, only(max_auroc_gap=0.05), groups=rows, gaps=[gap("sex", 0.06, 0.1, 0.14)])
    assert found["auroc_gap_sex"].verdict == "fail"
    assert "0.100 [0.060, 0.140], at most 0.05 is asked for" in found["auroc_gap_sex"].reason
    assert found["auroc_gap_site"].verdict == "insufficient data"


def test_where_all_are_of_one_group_there_is_no_gap_to_ask_for(tmp_path):
    found = ask(tmp_path, only(max_auroc_gap=0.05), groups=group("view", "PA", GOOD), gaps=[gap("view", *BLANK)])
    assert found["auroc_gap_view"].verdict == "not asked"


def test_intersections_are_asked_about_where_they_are_named(tmp_path):
    rows = [*SEXES, *group("sex+view", "F, PA", BLANK), *group("sex+view", "M, PA", GOOD)]
    assert "sensitivity_sex+view" not in ask(tmp_path / "all", only(min_sensitivity=0.8), groups=rows)
    named = ask(tmp_path / "named", only(min_sensitivity=0.8, groups=("sex+view",)), groups=rows)
    assert named["sensitivity_sex+view"].verdict == "insufficient data"
    assert "in every group by sex and view?" in named["sensitivity_sex+view"].asks


def test_only_the_attributes_that_the_recipe_names_are_asked_about(tmp_path):
    rows = [*SEXES, *group("site", "north", BLANK), *group("site", "south", GOOD)]
    found = ask(tmp_path, only(min_sensitivity=0.8, groups=("sex",)), groups=rows)
    assert "sensitivity_site" not in found
    assert found["sensitivity_sex"].verdict == "pass"
    with pytest.raises(UsageError, match=r"groups by race, but the audit has sex; name it in audit\.groups"):
        ask(tmp_path / "race", only(min_sensitivity=0.8, groups=("race",)))


def test_an_error_without_an_interval_is_not_known_unless_the_audit_has_one(tmp_path):
    bare = {**TESTED, "ece": 0.01}
    assert ask(tmp_path / "bare", only(max_ece=0.05), tested=bare)["ece"].verdict == "insufficient data"
    row = {"attribute": "all", "group": "all", **interval(0.005, 0.01, 0.03), "metric": "ece"}
    one = ask(tmp_path / "audited", only(max_ece=0.05), tested=bare, groups=[row, *SEXES])["ece"]
    assert (one.verdict, one.high, one.group) == ("pass", 0.03, "")


def test_a_calibration_error_that_chance_explains_is_no_failure(tmp_path):
    """Scores that are perfectly calibrated by construction: what 200 images show of them fails nobody."""
    random, n = np.random.default_rng(0), 200
    seen = []
    for _ in range(400):
        p = np.sort(random.beta(2, 4, n))
        y = random.random(n) < p
        seen.append(np.mean([abs(a.mean() - b.mean()) for a, b in zip(np.split(p, 10), np.split(y, 10), strict=True)]))
    usual = float(np.mean(seen))
    assert usual > 0.05  # above the tolerance, without any fault
    tested = {**TESTED, "n_positive": 67, "ece": interval(usual - 0.01, usual, usual + 0.05)}
    one = ask(tmp_path, only(max_ece=0.05), tested=tested)["ece"]
    assert (one.verdict, one.low) == ("insufficient data", 0.0)
    assert "chance alone would show up to" in one.reason
    proven = {**TESTED, "n_positive": 67, "ece": interval(0.2, 0.25, 0.3)}
    found = ask(tmp_path / "proven", only(max_ece=0.05), tested=proven)["ece"]
    assert found.verdict == "fail"
    assert usual <= 0.2 - found.low < 1.3 * usual


@pytest.mark.parametrize(
    ("told", "ranks", "verdict", "bounds"),
    [
        # Told from the image, and nearly the label: covid films of one set, healthy ones of another.
        ((0.91, 0.95, 0.98), (0.97, 0.98, 0.99), "fail", (0.91, 0.98)),
        # Told, but as frequent with the label as without.
        ((0.91, 0.95, 0.98), (0.46, 0.5, 0.55), "pass", (0.5, 0.55)),
        # Goes with the label, but the embedding does not hold it.
        ((0.45, 0.5, 0.6), (0.9, 0.95, 0.99), "pass", (0.45, 0.6)),
        # Ranks the label the other way round: as good a shortcut.
        ((0.91, 0.95, 0.98), (0.02, 0.05, 0.1), "fail", (0.9, 0.98)),
        # Too few to say whether it goes with the label.
        ((0.91, 0.95, 0.98), (0.3, 0.5, 0.75), "insufficient data", (0.5, 0.75)),
        (BLANK, None, "insufficient data", (None, None)),
    ],
)
def test_a_shortcut_is_worth_no_more_than_its_weaker_step(tmp_path, told, ranks, verdict, bounds):
    one = ask(tmp_path, only(max_shortcut=0.7), shortcuts=[entry("source", told, ranks)])["shortcut_source"]
    assert one.verdict == verdict
    assert (one.low, one.high) == pytest.approx(bounds)
    assert "words of the audit" in one.reason


def test_without_a_shortcut_audit_nothing_passes_unless_the_recipe_says_aloud_that_it_is_not_asked(tmp_path):
    missing = ask(tmp_path / "none", only(max_shortcut=0.7), shortcuts=None)["shortcut"]
    assert (missing.verdict, missing.note) == (
        "insufficient data", "no shortcut audit was made (there is no shortcuts.json)",
    )  # fmt: skip
    for said in ("not asked", None):
        silent = only(max_shortcut=0.7, shortcut_audit=said)
        assert ask(tmp_path / f"not asked {said}", silent, shortcuts=None)["shortcut"].verdict == "not asked"
    # What is there is judged, even where it was not asked for.
    known = [entry("source", (0.91, 0.95, 0.98), (0.97, 0.98, 0.99))]
    assert ask(tmp_path / "there", silent, shortcuts=known)["shortcut_source"].verdict == "fail"
    assert ask(tmp_path / "no tolerance", only(), shortcuts=None)["shortcut"].verdict == "not asked"


def test_a_modality_without_the_label_needs_no_shortcut_audit(tmp_path):
    mr = {"why": "no MR image", "groups": [], "gaps": [], "shortcuts": None}
    assert ask(tmp_path / "never", Gate(), known=0, **mr)["shortcut"].verdict == "not asked"
    assert ask(tmp_path / "seldom", Gate(), known=30, **mr)["shortcut"].verdict == "insufficient data"


def test_the_shortcut_audit_may_be_narrowed(tmp_path):
    entries = [entry("site", (0.9, 0.95, 0.99), (0.45, 0.5, 0.55)), entry("marker", BLANK, None)]
    found = ask(tmp_path / "narrow", only(max_shortcut=0.7, shortcuts=("site", "scanner")), shortcuts=entries)
    told = {name: one.verdict for name, one in found.items() if name.startswith("shortcut")}
    assert told == {"shortcut_site": "pass", "shortcut_scanner": "insufficient data"}


def test_a_modality_without_the_label_is_not_asked(tmp_path):
    found = ask(tmp_path, Gate(), why="the dataset knows it for no MR image", known=0, groups=[], gaps=[], shortcuts=[])
    assert {one.verdict for one in found.values()} == {"not asked"}
    assert "embeddings only, since the dataset knows it for no MR image" in found["auroc"].reason


def test_a_label_that_is_known_of_too_few_is_insufficient_data(tmp_path):
    found = ask(tmp_path, Gate(), why="train and val have 2 positive patients", known=30, groups=[], gaps=[])
    asked = {name: one.verdict for name, one in found.items() if name not in ("gain", "shortcut_sex")}
    assert set(asked.values()) == {"insufficient data"}


def test_null_in_a_recipe_is_not_asked(tmp_path):
    found = ask(tmp_path, Gate.model_validate({**dict.fromkeys(SILENT), "min_auroc": 0.8}))
    assert {name for name, one in found.items() if one.verdict != "not asked"} == {"auroc"}


def test_the_gain_is_the_difference_on_the_same_patients(tmp_path):
    ours, _ = write(tmp_path / "moco")
    floor, _ = write(tmp_path / "pixels", encoder="pixels")
    write_predictions(ours, 2.0)
    write_predictions(floor, 0.0)
    evidence = Evidence.read(ours, tmp_path / "moco" / "findings", "pneumonia", floor=floor)
    [one] = [each for each in criteria.judge(evidence, only(min_gain=0.1), "pneumonia") if each.criterion == "gain"]
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (ours, floor)]
    naive = [roc_auc_score(table["truth"], table["score"]) for table in tables]
    assert one.value == pytest.approx(naive[0] - naive[1])
    assert one.verdict == "pass"
    # The same bootstrap, patient by patient, in a plain loop.
    random, drawn = np.random.default_rng(1), []
    for _ in range(300):
        patients = random.integers(0, 60, 60)
        rows = np.concatenate([[2 * patient, 2 * patient + 1] for patient in patients])
        drawn.append(np.subtract(*(roc_auc_score(t["truth"].iloc[rows], t["score"].iloc[rows]) for t in tables)))
    assert (one.low, one.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.04)


def test_a_gain_without_a_floor_is_not_known_and_pixels_gain_nothing(tmp_path):
    assert ask(tmp_path / "moco", only(min_gain=0.0))["gain"].verdict == "insufficient data"
    assert ask(tmp_path / "pixels", only(min_gain=0.0), encoder="pixels")["gain"].verdict == "not asked"


def test_what_does_not_belong_is_refused(tmp_path):
    scores, findings = write(tmp_path / "made", label="dementia")
    with pytest.raises(UsageError, match="asks for 'pneumonia', but the head of XR is of 'dementia'"):
        Evidence.read(scores, findings, "pneumonia")
    (findings / "audit.json").write_text('{"label": "dementia", "gaps": []}')
    with pytest.raises(DatasetError, match="no list of groups and gaps"):
        Evidence.read(scores, findings, "dementia")
    (findings / "audit.json").unlink()
    with pytest.raises(DatasetError, match=r"audit\.json"):
        Evidence.read(scores, findings, "dementia")
