import numpy as np
import pandas as pd
import pytest

from hilum.identity import Run
from hilum.judgement.fairness import pages, tables
from hilum.recipe import Audit

RUN = Run(code_revision="c" * 8, data_digest="d" * 8, recipe_digest="r" * 8)


def judged(label, miss=0.3, seed=0):
    """Two large groups, of which `<b>` is served worse, and one of three patients."""
    random = np.random.default_rng(seed)
    group = np.array(["A", "<b>"], dtype=object)[np.arange(600) % 2]
    truth = (random.random(600) < 0.5).astype(float)
    score = np.clip(0.35 + 0.3 * truth - miss * truth * (group == "<b>") + random.normal(0, 0.12, 600), 0, 1)
    group[:3] = "rare"
    recipe = Audit(label=label, bootstrap=300, min_group=10)
    return tables.judge(score * 0 + truth, score, 0.5, pd.DataFrame({"race": group}), pd.Series(range(600)), recipe)


def page_of(label, found, mitigation=None):
    subject = pages.Subject(label, "moco", "XR", "Mined labels.", RUN, mitigation)
    return pages.judged_page(subject, found.groups, found.gaps, 0.5, 10)


def test_a_gap_beyond_chance_is_said_first_and_in_words():
    page = page_of("pneumonia", judged("pneumonia"))
    stands_out = page[page.index("What stands out") : page.index("Gaps between groups")]
    assert "how often it is caught differs by" in stands_out
    assert "lowest in &lt;b&gt;, highest in A" in stands_out
    assert "<b>" not in page
    for said in (*RUN.values(), "Mined labels.", "No mitigation was applied", "Too few patients to be judged"):
        assert said in page
    assert "rare (3 patients)" in page
    assert "data:image/png;base64" in page


def test_fair_groups_are_not_called_fair():
    stands_out = page_of("pneumonia", judged("pneumonia", miss=0.0))
    assert "none is beyond what chance alone makes" in stands_out
    assert "no proof that they are" in stands_out


def test_a_label_of_the_healthy_is_told_as_such():
    page = page_of("no_finding", judged("no_finding"), {"method": "leace", "attribute": "sex"})
    assert "how often the healthy are called healthy differs by" in page
    assert "Are ill patients called healthy equally often?" in page
    assert "treated: leace, by sex" in page
    assert "false alarms" not in page
    other = page_of("pneumonia", judged("pneumonia"))
    assert "share of images with pneumonia that were called negative" in other


def test_beside_each_calibration_error_stands_that_of_chance():
    found = judged("pneumonia")
    page = page_of("pneumonia", found)
    head = "calibration error (ECE)</th><th>ECE if perfectly calibrated</th>"
    assert page.count(head) == 1
    chance = found.groups.set_index(["group", "metric"])["chance"]
    for group in ("all", "A", "<b>"):
        assert f"</td><td>{chance[group, 'ece']:.3f}</td><td>" in page.split(head)[1]
    assert np.isnan(chance["rare", "ece"])


def test_pictures_are_the_same_every_time_and_absent_where_there_is_nothing_to_draw():
    found = judged("pneumonia")
    once, twice = (pages.pictures(found.groups, found.gaps, "pneumonia") for _ in range(2))
    assert set(once) == set(pages.PICTURES)
    assert once == twice
    nothing = found.groups.assign(value=np.nan)
    assert pages.pictures(nothing, found.gaps.assign(value=np.nan), "pneumonia") == {}


@pytest.mark.parametrize("label", ["pneumonia", "no_finding"])
def test_every_gap_that_is_asked_has_words(label):
    found = judged(label)
    every = found.gaps.assign(p_holm=np.where(found.gaps["p"].notna(), 0.001, np.nan))
    lines = [str(piece) for piece in pages._found(every, label)]
    assert str(lines).count("<li>") == every["p_holm"].notna().sum()
