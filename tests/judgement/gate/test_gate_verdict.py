"""The verdict on a run: only a pass exports, unless somebody answers for it; and it must follow from its evidence."""

import json

import pytest
from made_evidence import BLANK, TESTED, entry, gap, group, interval, write

from hilum.errors import CheckFailed, DatasetError, UsageError
from hilum.judgement.gate import verdict as verdicts
from hilum.judgement.gate.override import Override
from hilum.judgement.gate.verdict import Verdict
from hilum.recipe import Gate

SOMEBODY = Override.of("Dr Example", "a test of the server with <b>marks</b> & signs")
NOTHING = dict.fromkeys(
    ("min_auroc", "min_sensitivity", "max_auroc_gap", "max_ece", "max_shortcut", "min_group"), "not asked"
)


def gate(out, *folders, recipe=None, **more):
    scores, findings = zip(*folders, strict=True)
    return verdicts.run(scores, findings, recipe or Gate(), "moco", "pneumonia", out, **more)


@pytest.fixture
def good(tmp_path):
    return write(tmp_path / "good")


@pytest.fixture
def weak(tmp_path):
    return write(tmp_path / "weak", tested={**TESTED, "auroc": interval(0.4, 0.5, 0.58)})


@pytest.fixture
def small(tmp_path):
    return write(tmp_path / "small", groups=[*group("sex", "F", BLANK), *group("sex", "M", BLANK)])


@pytest.fixture
def silent(tmp_path):
    return write(
        tmp_path / "silent", modality="MR", why="it knows pneumonia for no MR image", known=0, groups=(), gaps=()
    )


def test_a_pass_may_be_exported_and_is_written(good, tmp_path):
    found = gate(tmp_path / "out", good)
    assert (found.verdict, found.allows, found.against) == ("pass", True, [])
    assert Verdict.read(tmp_path / "out") == found
    said = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert (said["verdict"], said["override"], said["answered"]) == ("pass", None, {"XR": True})
    assert said["tolerances"] == Gate().model_dump(mode="json")
    assert said["caution"] == "made by a test"
    assert set(said["run"]) == {"code_revision", "data_digest", "recipe_digest"}
    verdicts.refuse(tmp_path / "out")


def test_a_failure_may_not(weak, tmp_path):
    found = gate(tmp_path / "out", weak)
    assert (found.verdict, found.allows) == ("fail", False)
    with pytest.raises(CheckFailed, match=r"the release \(fail\): .*0\.500 \[0\.400, 0\.580\].*--override NAME"):
        verdicts.refuse(tmp_path / "out")


def test_insufficient_data_is_no_pass(small, tmp_path):
    found = gate(tmp_path / "out", small)
    assert (found.verdict, found.allows) == ("insufficient data", False)
    with pytest.raises(CheckFailed, match=r"not enough data to tell XR sensitivity_sex; gate\.html has the whole"):
        found.require()


def test_one_modality_that_fails_holds_both_back(weak, silent, tmp_path):
    found = gate(tmp_path / "out", weak, silent)
    assert (found.verdict, found.of("XR"), found.of("MR")) == ("fail", "fail", "not asked")
    assert not found.allows


def test_embeddings_alone_are_let_through_where_nothing_can_be_asked(good, silent, tmp_path):
    alone = gate(tmp_path / "alone", silent)
    assert (alone.verdict, alone.allows, alone.answered) == ("not asked", True, {"MR": False})
    both = gate(tmp_path / "both", good, silent)
    assert (both.verdict, both.allows) == ("pass", True)


def test_a_recipe_that_asks_nothing_lets_no_decision_through(good, tmp_path):
    found = gate(tmp_path / "out", good, recipe=Gate(**NOTHING))
    assert (found.verdict, found.allows) == ("not asked", False)
    with pytest.raises(CheckFailed, match="the recipe asks nothing of it"):
        found.require()


def test_an_override_lets_it_through_and_stays_with_it(weak, tmp_path):
    found = gate(tmp_path / "out", weak, override=SOMEBODY)
    assert (found.verdict, found.passes, found.allows) == ("fail", False, True)
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["override"] == {
        "by": "Dr Example",
        "reason": "a test of the server with <b>marks</b> & signs",
        "on": SOMEBODY.on,
    }
    found.require()


def test_where_it_passes_there_is_nothing_to_override(good, tmp_path):
    assert gate(tmp_path / "out", good, override=SOMEBODY).override is None


def test_a_dataset_shortcut_is_refused_in_plain_words(tmp_path):
    mixed = [entry("source", (0.91, 0.95, 0.98), (0.97, 0.98, 0.99))]
    found = gate(tmp_path / "out", write(tmp_path / "mixed", shortcuts=mixed))
    assert found.verdict == "fail"
    with pytest.raises(CheckFailed, match="How far could it go by dataset of origin instead of by signs of pneumonia"):
        found.require()


def test_shortcuts_of_a_folder_of_their_own_are_found_by_what_they_are_of(good, tmp_path):
    other = write(tmp_path / "other", shortcuts=[entry("site", (0.9, 0.95, 0.99), (0.9, 0.95, 0.99))])[1]
    assert gate(tmp_path / "out", good, shortcut_dirs=[other]).verdict == "fail"
    of_pixels = write(tmp_path / "pixels", encoder="pixels", shortcuts=[entry("site", *[(0.9, 0.95, 0.99)] * 2)])[1]
    assert gate(tmp_path / "out2", good, shortcut_dirs=[of_pixels]).verdict == "pass"


def test_a_verdict_that_was_edited_is_found(weak, tmp_path):
    gate(tmp_path / "out", weak)
    path = tmp_path / "out" / "verdict.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "verdict": "pass"}))
    with pytest.raises(DatasetError, match=r"does not follow from its own numbers \(verdict\)"):
        Verdict.read(tmp_path / "out")
    criteria = [{**one, "verdict": "pass" if one["verdict"] == "fail" else one["verdict"]} for one in said["criteria"]]
    path.write_text(json.dumps({**said, "verdict": "pass", "criteria": criteria}))
    with pytest.raises(DatasetError, match=r"own numbers \(auroc\)"):
        Verdict.read(tmp_path / "out")


def test_a_verdict_with_other_numbers_than_the_evidence_is_found(weak, good, tmp_path):
    gate(tmp_path / "out", weak)
    path = tmp_path / "out" / "verdict.json"
    said = json.loads(path.read_text())
    said["criteria"][0] |= {"verdict": "pass", "value": 0.9, "low": 0.8, "high": 0.95}
    path.write_text(json.dumps({**said, "verdict": "pass"}))
    forged = Verdict.read(tmp_path / "out")
    assert forged.passes
    with pytest.raises(CheckFailed, match=r"does not follow from this evidence \(auroc\)"):
        verdicts.confirm(forged, *weak)
    verdicts.confirm(gate(tmp_path / "again", good), *good)


def test_a_verdict_with_other_tolerances_than_its_recipe_is_found(weak, tmp_path):
    found = gate(tmp_path / "out", weak)
    milder = found.model_copy(update={"tolerances": {**found.tolerances, "min_auroc": 0.1}})
    with pytest.raises(CheckFailed, match="tolerances are not those of the recipe"):
        verdicts.confirm(milder, *weak)


def test_a_verdict_with_a_question_left_out_is_found(weak, tmp_path):
    found = gate(tmp_path / "out", weak)
    fewer = found.model_copy(update={"criteria": found.criteria[1:], "verdict": "pass"})
    with pytest.raises(CheckFailed, match="does not follow from this evidence"):
        verdicts.confirm(fewer, *weak)


@pytest.mark.parametrize("content", ['{"ok": true}', "[]", "{", '{"verdict": "splendid"}'])
def test_what_is_no_verdict_is_refused(content, tmp_path):
    (tmp_path / "verdict.json").write_text(content)
    with pytest.raises(DatasetError, match=r"verdict\.json"):
        Verdict.read(tmp_path)


def test_the_verdict_of_a_validation_is_not_written_over(good, tmp_path):
    (tmp_path / "verdict.json").write_text('{"ok": true, "checks": []}')
    with pytest.raises(UsageError, match="not the gate's"):
        gate(tmp_path, good)
    assert "checks" in (tmp_path / "verdict.json").read_text()


def test_what_does_not_belong_is_refused(good, tmp_path):
    scores, findings = good
    with pytest.raises(UsageError, match="no probe is of the encoder 'vae'; there are probes of moco"):
        verdicts.run([scores], [findings], Gate(), "vae", "pneumonia", tmp_path / "out")
    with pytest.raises(UsageError, match="1 probes and 0 audits"):
        verdicts.run([scores], [], Gate(), "moco", "pneumonia", tmp_path / "out")
    with pytest.raises(DatasetError):
        verdicts.run([scores], [tmp_path / "none"], Gate(), "moco", "pneumonia", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_says_what_was_asked_measured_and_decided(weak, silent, tmp_path):
    gate(tmp_path / "out", weak, silent, override=SOMEBODY)
    page = (tmp_path / "out" / "gate.html").read_text()
    for said in (
        "<title>May moco be released for pneumonia?",
        'Verdict: <span class="bad">fail</span>',
        "the first is ranked higher at least 60 times in 100",
        "0.500<br>[0.400, 0.580]",
        "200 images of 90 patients",
        "Shown not to hold: even the high end of the interval is too low.",
        "In every group at least 80 of 100 images with pneumonia are caught.",
        "This release answers embeddings only",
        "Dr Example answers for it",
        "a test of the server with &lt;b&gt;marks&lt;/b&gt; &amp; signs",
        "made by a test",
        "no pass, and holds a release back",
        "d" * 64,
    ):
        assert said in page, said
    assert "<b>marks" not in page
    assert "http" not in page.split("</style>")[1]


def test_the_page_of_a_pass_says_yes_and_whom_it_is_not_for(tmp_path):
    rows = [*group("sex", "F", (0.85, 0.9, 0.95)), *group("sex", "M", BLANK, n_patients=2)]
    folders = write(tmp_path / "made", groups=rows, gaps=[gap("sex", 0.0, 0.01, 0.04)])
    found = gate(tmp_path / "out", folders, recipe=Gate(outside=("sex=M",)))
    page = (tmp_path / "out" / "gate.html").read_text()
    assert found.verdict == "pass"
    assert "<p class='lead'>Yes. Of 6 questions that the recipe asks, 6 were shown to hold" in page
    assert "not for these groups, which were not asked about: sex M" in page
    assert "override" not in page
