"""From figures to verdicts and words."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hilum.judgement import stats
from hilum.judgement.shortcuts import verdicts
from hilum.judgement.shortcuts.association import Inside, Stratum
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.decoding import Decoding
from hilum.judgement.shortcuts.position import Displacement
from hilum.recipe import Shortcuts

RECIPE = Shortcuts()
NONE = stats.undefined("insufficient data: too few")


def known(value, low, high):
    return stats.Interval(value, low, high, 400, 200)


def attribute(name="site"):
    code = np.array([0.0, 1.0])
    return Attribute(name, "category", ("north", "south"), code, code, np.array(["north", "south"], dtype=object))


TOLD = Decoding(known(0.9, 0.85, 0.94), known(0.8, 0.75, 0.85), 0.56, 0.001, True, 400, 200, ("north", "south"))
UNTOLD = replace(TOLD, auroc=known(0.51, 0.46, 0.56), p=0.4)
WEAK, STRONG, WHOLE = known(0.52, 0.47, 0.57), known(0.7, 0.64, 0.76), known(0.98, 0.96, 0.99)
STRATA = (Stratum("north", known(0.7, 0.6, 0.8), 90), Stratum("south", known(0.7, 0.6, 0.8), 80))
LOST = Inside(STRATA, known(0.8, 0.75, 0.85), known(0.7, 0.6, 0.8), known(0.1, 0.05, 0.15))
KEPT = replace(LOST, drop=known(0.0, -0.02, 0.02))
UNJUDGED = Inside((), NONE, NONE, NONE)


def finding(decoding, association, inside, p_holm=None):
    p = p_holm if p_holm is not None else decoding.p
    return verdicts.Finding(attribute(), decoding, p, association, inside)


@pytest.mark.parametrize(
    ("decoding", "association", "inside", "expected"),
    [
        (TOLD, STRONG, LOST, "shortcut"),
        (TOLD, STRONG, KEPT, "decodable"),
        (TOLD, STRONG, UNJUDGED, "decodable"),
        (TOLD, WEAK, LOST, "decodable"),
        (TOLD, WHOLE, UNJUDGED, "shortcut"),  # nothing to hold fixed: the label is nearly the attribute
        (TOLD, WHOLE, KEPT, "shortcut"),
        (TOLD, None, None, "decodable"),
        (UNTOLD, STRONG, LOST, "not found"),
        (UNTOLD, WHOLE, UNJUDGED, "insufficient data"),  # the few exceptions do not show that it is unknown
        (replace(TOLD, auroc=NONE, p=math.nan, short="too few"), STRONG, LOST, "insufficient data"),
    ],
)
def test_the_verdict_follows_from_three_questions(decoding, association, inside, expected):
    found = finding(decoding, association, inside)
    assert found.verdict(RECIPE) == expected
    assert found.verdict(RECIPE) in verdicts.VERDICTS
    assert found.words("pleural_effusion", RECIPE)


def test_a_hit_must_survive_the_correction_and_a_loss_must_be_worth_a_word():
    assert finding(TOLD, STRONG, LOST, p_holm=0.02).verdict(RECIPE) == "not found"
    small = replace(LOST, drop=known(0.005, 0.002, 0.008))
    assert finding(TOLD, STRONG, small).verdict(RECIPE) == "decodable"
    assert finding(TOLD, STRONG, small).verdict(RECIPE.model_copy(update={"min_drop": 0.001})) == "shortcut"


def test_a_label_that_nearly_is_its_source_is_said_in_plain_words():
    said = replace(finding(TOLD, WHOLE, UNJUDGED), attribute=attribute("source")).words("pneumonia", RECIPE)
    assert said.startswith("The label is nearly the dataset of origin: whoever knows only the dataset of origin")
    assert "98 of 100 pairs of an image with pneumonia and one without" in said
    assert "no score on this dataset can tell which" in said
    whole = replace(finding(TOLD, known(1.0, 1.0, 1.0), UNJUDGED), attribute=attribute("source"))
    assert whole.words("pneumonia", RECIPE).startswith("The label is the dataset of origin: ")


def test_words_say_what_is_lost_and_by_how_much():
    said = finding(TOLD, STRONG, LOST).words("pneumonia", RECIPE)
    assert "The AUROC for pneumonia is 0.80 over all pairs and 0.70 over pairs in which it is the same" in said
    assert "0.10, 0.05 to 0.15 less" in said
    assert "among images with the same label" in said
    plain = finding(replace(TOLD, conditional=False), WHOLE, UNJUDGED).words("pneumonia", RECIPE)
    assert "the label left aside since too few images are exceptions" in plain


def test_an_entry_is_json_without_nan():
    entry = verdicts.entry(finding(replace(TOLD, auroc=NONE, p=math.nan, short="too few"), None, None), "x", RECIPE)
    assert entry["auroc"] is entry["p"] is entry["p_holm"] is entry["conditional"] is None
    assert entry["verdict"] == "insufficient data"
    assert entry["words"] == "Insufficient data: too few."
    full = verdicts.entry(finding(TOLD, STRONG, LOST), "x", RECIPE)
    assert (full["auroc"], full["low"], full["high"]) == (0.9, 0.85, 0.94)
    assert full["association"] == {"auroc": 0.7, "low": 0.64, "high": 0.76, "n": 400, "n_patients": 200, "note": ""}
    assert full["associated_with_label"] is True
    assert full["drop"]["value"] == 0.1


def test_a_displacement_is_said_with_its_side_and_bounds():
    moved = Displacement(attribute(), "south", "north", 0, known(-2.5, -2.7, -2.3), 0.001, 0.002)
    assert verdicts.displaced(moved, RECIPE)
    said = verdicts.displacement_words(moved, True)
    assert said == "Images of site south lie 2.5 px (2.3 to 2.7) further left than those of north, view by view."
    assert not verdicts.displaced(replace(moved, p_adjusted=0.02), RECIPE)
    assert not verdicts.displaced(replace(moved, shift_px=known(-0.4, -0.5, -0.3)), RECIPE)  # less than half a pixel
    assert "do not clearly lie" in verdicts.displacement_words(moved, False)
