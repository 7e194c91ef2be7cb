"""`no_finding` is a label of the healthy: the gate asks about it in words that hold for them."""

import pytest
from made_evidence import SEXES, write

from hilum.errors import UsageError
from hilum.judgement.gate import criteria, verdict
from hilum.judgement.gate.evidence import Evidence
from hilum.recipe import Gate


@pytest.fixture
def judged(tmp_path):
    scores, findings = write(tmp_path / "evidence", label="no_finding", groups=SEXES)
    recipe = Gate(groups=("sex",))
    found = criteria.judge(Evidence.read(scores, findings, "no_finding"), recipe, "no_finding")
    page = verdict.run([scores], [findings], recipe, "moco", "no_finding", tmp_path / "gate")
    assert list(page.criteria) == found
    return {one.criterion: one for one in found}, (tmp_path / "gate" / "gate.html").read_text()


def test_the_healthy_are_not_said_to_have_it(judged):
    found, _ = judged
    assert found["auroc"].asks == "Does it rank patients without a finding above patients with one?"
    assert found["sensitivity_sex"].asks == "Are patients without a finding called so in every group by sex?"
    assert found["shortcut_sex"].asks == "How far could it go by sex instead of by the absence of findings?"
    assert "no finding" not in " ".join(one.reason for one in found.values())


def rates(attribute, name, bounds, n_negative=60):
    low, value, high = bounds
    row = {"attribute": attribute, "group": name, "n": 100, "n_patients": 60, "n_positive": 40, "note": ""}
    return row | {"n_negative": n_negative, "metric": "underdiagnosis", "low": low, "value": value, "high": high}


@pytest.mark.parametrize(
    ("of_women", "verdict", "group"),
    [
        ((0.05, 0.10, 0.15), "pass", "M"),
        ((0.15, 0.18, 0.25), "insufficient data", "F"),
        ((0.30, 0.40, 0.50), "fail", "F"),
    ],
)
def test_the_ill_who_are_called_healthy_are_counted_in_the_worst_group(tmp_path, of_women, verdict, group):
    rows = [*SEXES, rates("sex", "F", of_women), rates("sex", "M", (0.08, 0.12, 0.19))]
    scores, findings = write(tmp_path, label="no_finding", groups=rows)
    found = criteria.judge(Evidence.read(scores, findings, "no_finding"), Gate(groups=("sex",)), "no_finding")
    one = next(one for one in found if one.criterion == "underdiagnosis_sex")
    assert (one.verdict, one.group, one.n, one.tolerance) == (verdict, group, 60, 0.2)
    assert one.follows
    assert one.asks == "How often are the ill called healthy in a group by sex?"


def test_of_an_illness_it_is_the_sensitivity_that_is_asked(tmp_path):
    scores, findings = write(tmp_path, groups=SEXES)
    found = criteria.judge(Evidence.read(scores, findings, "pneumonia"), Gate(groups=("sex",)), "pneumonia")
    assert not [one for one in found if one.criterion.startswith("underdiagnosis")]


def test_a_shortcut_audit_of_another_encoder_is_refused(tmp_path):
    scores, findings = write(tmp_path / "moco")
    _, other = write(tmp_path / "vae", encoder="vae")
    with pytest.raises(UsageError, match="asks for moco, but the shortcut audit of XR is of vae"):
        Evidence.read(scores, findings, "pneumonia", shortcuts=other)


def test_nor_on_the_page(judged):
    _, page = judged
    assert "In every group at least 80 of 100 images without a finding are called so." in page
    assert "the number of healthy ones is off by at most 5" in page
    assert "with no finding" not in page
    assert "ill ones" not in page
