"""`no_finding` is a label of the healthy: the gate asks about it in words that hold for them."""

import pytest
from made_evidence import SEXES, write

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


def test_nor_on_the_page(judged):
    _, page = judged
    assert "In every group at least 80 of 100 images without a finding are called so." in page
    assert "the number of healthy ones is off by at most 5" in page
    assert "with no finding" not in page
    assert "ill ones" not in page
