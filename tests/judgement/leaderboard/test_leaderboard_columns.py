"""Best, tied, behind: what the comparisons of a column allow to be said, against the rule by the book."""

import math
from itertools import combinations

import numpy as np
import pytest
from made_answers import answer, insufficient, naive_tied

from hilum.errors import DatasetError
from hilum.judgement import stats
from hilum.judgement.leaderboard import columns, paired, words
from hilum.judgement.leaderboard.columns import arrange, compare
from hilum.judgement.leaderboard.tables import Table

N = 240
TRUTH = np.repeat(np.random.default_rng(7).random(N // 2) < 0.4, 2).astype(float)


def scores(*signals, seed=0):
    random = np.random.default_rng(seed)
    shared = random.normal(size=N)
    return [signal * TRUTH + shared + 0.8 * random.normal(size=N) for signal in signals]


def column(found, **more):
    [made] = arrange([answer(name, score, TRUTH, **more) for name, score in found.items()])
    return compare(made)


def table(made):
    return Table("XR", "made", tuple(made.answers), (made,), {})


def named(rows):
    return {encoder for encoder, _ in rows}


@pytest.mark.parametrize("seed", range(6))
def test_the_rule_by_the_book(seed):
    random = np.random.default_rng(seed)
    found = dict(zip("abcd", scores(*random.choice([0.0, 0.8, 1.0, 1.2, 2.5], 4), seed=seed), strict=True))
    made = column(found)
    patients = np.arange(N) // 2
    raw = {
        frozenset(pair): stats.swap_test(stats.weighted_auroc, patients, TRUTH, *(found[name] for name in pair))
        for pair in combinations(found, 2)
    }
    values = {name: made.answers[name, "probe"].score.value for name in found}
    top, tied, corrected = naive_tied(values, raw)
    assert len(made.comparisons) == 6
    for one in made.comparisons:
        pair = frozenset(named((one.a, one.b)))
        assert one.p == pytest.approx(raw[pair], abs=2e-4)  # rounding may move a permutation that ties
        assert one.p_holm == pytest.approx(corrected[pair], abs=2e-3)
    assert made.best == (top, "probe")
    assert named(made.tied) == tied
    for name in found:
        expected = ("best" if len(tied) == 1 else "tied") if name in tied else "behind"
        assert made.standing((name, "probe")) == (expected if name == top or name not in tied else "tied")


def test_a_clear_winner_is_called_best():
    made = column(dict(zip(("pixels", "moco", "strong"), scores(0.2, 0.8, 6.0), strict=True)))
    assert [made.standing(row) for row in made.answers] == ["behind", "behind", "best"]
    said = words.established(table(made), made)
    assert said.startswith("strong is best: better than each of the 2 others (largest corrected p 0.0")
    assert "no order" not in said


def test_rows_that_cannot_be_told_apart_are_tied_and_none_is_best():
    made = column(dict(zip(("pixels", "moco", "weak"), scores(1.5, 1.52, -2.0), strict=True)))
    assert {encoder: made.standing((encoder, way)) for encoder, way in made.answers} == {
        "pixels": "tied", "moco": "tied", "weak": "behind",
    }  # fmt: skip
    said = words.established(table(made), made)
    top = made.best[0]
    assert "no order can be established between pixels and moco" in said
    assert f"with {int(TRUTH.sum())} positives, ±0.0" in said
    assert said.endswith(f"shown to be worse than {top}, the highest score: weak")


def test_the_rarer_class_is_the_one_that_is_counted():
    found = dict(zip(("pixels", "moco"), scores(1.5, 1.52), strict=True))
    [made] = arrange([answer(name, -score, 1 - TRUTH) for name, score in found.items()])
    said = words.established(table(made), compare(made))
    assert f"with {int(TRUTH.sum())} negatives, ±0.0" in said


def test_the_family_is_all_pairs_of_the_column():
    # Alone, the difference of the two is shown; among eight encoders, of which the best is chosen, it is not.
    close = dict(zip(("a", "b"), scores(0.7, 1.25, seed=3), strict=True))
    alone = column(close)
    [pair] = alone.comparisons
    assert pair.p == pair.p_holm < 0.05
    assert alone.standing(("b", "probe")) == "best"
    noise = np.random.default_rng(5)
    crowd = column(close | {name: close["b"] + 1e-3 * noise.normal(size=N) for name in "cdefgh"})
    again = crowd.between(("a", "probe"), ("b", "probe"))
    assert again.p == pytest.approx(pair.p, abs=0.01)
    assert again.p_holm > 0.05
    assert again.p_holm >= 22 * again.p - 1e-9  # at most six of the 28 pairs, of `a` with others, come before it
    assert crowd.standing(("b", "probe")) == "tied"


def test_differences_are_those_of_the_paired_bootstrap_and_turn_with_the_side():
    made = column(dict(zip(("a", "b"), scores(0.5, 1.5), strict=True)))
    [one] = made.comparisons
    frames = [made.answers[name, "probe"].predictions for name in ("a", "b")]
    expected = paired.gain(*frames, "binary", "auroc")
    assert [one.difference.value, one.difference.low, one.difference.high] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )
    turned = one.seen_from(("b", "probe"))
    assert (turned.value, turned.low, turned.high) == (-one.difference.value, -one.difference.high, -one.difference.low)
    assert one.seen_from(("a", "probe")) == one.difference


def test_the_least_difference_is_of_the_widest_pair_at_the_strictest_level():
    made = column(dict(zip("abc", scores(0.5, 1.0, 1.5), strict=True)))
    widest = max(one.difference.high - one.difference.low for one in made.comparisons)
    assert made.detectable == pytest.approx(stats.detectable_difference(widest / (2 * 1.959964), level=0.05 / 3))
    assert made.detectable > stats.detectable_difference(widest / (2 * 1.959964))


def test_an_error_is_better_where_it_is_smaller():
    truth = np.random.default_rng(0).uniform(20, 90, N)
    noise = np.random.default_rng(1).normal(size=N)
    made = [answer(name, truth + wide * noise, TRUTH) for name, wide in (("pixels", 9.0), ("moco", 3.0))]
    errors = []
    for one in made:
        frame = one.predictions.assign(truth=truth, task="age")
        score = stats.patient_bootstrap(
            stats.weighted_mae, frame["patient"].to_numpy(), 200, 0, truth, frame["score"].to_numpy()
        )
        errors.append(
            columns.Answer(one.encoder, "probe", "age", "regression", "mae", False, score, math.nan, 15.0, frame)
        )
    [age] = [compare(each) for each in arrange(errors)]
    assert age.best == ("moco", "probe")
    assert age.standing(("moco", "probe")) == "best"
    assert age.between(("moco", "probe"), ("pixels", "probe")).seen_from(("moco", "probe")).low > 0
    assert words.metric(age) == "MAE, years; less is better"


def test_a_row_without_enough_data_takes_no_part_and_a_column_of_them_says_why():
    good, bad = scores(0.5, 5.0)
    [made] = arrange(
        [answer("pixels", good, TRUTH), answer("moco", bad, TRUTH), insufficient("short", task="pneumonia")]
    )
    made = compare(made)
    assert made.standing(("short", "probe")) == "not scored"
    assert made.standing(("moco", "probe")) == "best"
    assert len(made.comparisons) == 1
    [nothing] = [compare(each) for each in arrange([insufficient("pixels"), insufficient("moco")])]
    assert (nothing.best, nothing.tied, nothing.comparisons) == (None, (), ())
    assert math.isnan(nothing.detectable)
    assert "insufficient data" in words.established(table(nothing), nothing)


def test_one_row_alone_is_neither_best_nor_tied():
    made = column({"pixels": scores(1.0)[0]})
    assert made.standing(("pixels", "probe")) == "alone"
    assert words.established(table(made), made) == "only pixels was scored: there is nothing to compare"


def test_an_undefined_comparison_leaves_no_winner():
    weak, strong = scores(0.0, 6.0)
    made = column({"pixels": weak, "strong": strong})
    unclear = columns.replace(
        made, comparisons=tuple(columns.replace(one, p=math.nan, p_holm=math.nan) for one in made.comparisons)
    )
    assert {unclear.standing(row) for row in unclear.answers} == {"tied"}


def test_fine_tunings_share_the_labels_column_where_they_answer_for_the_same_images():
    frozen, tuned, fused = scores(0.5, 1.0, 5.0)
    whole = [answer("moco", frozen, TRUTH), answer("moco", tuned, TRUTH, way="linear")]
    covariates = answer("moco", fused, TRUTH, way="linear", covariates=True)
    found = arrange([*whole, covariates])
    assert [(one.part, words.heading(one), list(one.answers)) for one in found] == [
        ("", "pneumonia, image only", [("moco", "probe"), ("moco", "linear")]),
        ("image + covariates", "pneumonia, image + covariates", [("moco", "linear")]),
    ]
    fewer = answer("moco", tuned[:100], TRUTH[:100], way="linear")
    apart = arrange([whole[0], fewer, covariates])
    assert [(one.part, one.stem) for one in apart] == [
        ("", "pneumonia_auroc"),
        ("fine-tuned", "pneumonia_finetuned_auroc"),
        ("image + covariates", "pneumonia_with_covariates_auroc"),
    ]
    assert words.heading(apart[1]) == "pneumonia, fine-tuned, image only"


def test_probes_of_other_images_are_refused():
    a, b = scores(0.5, 1.0)
    [made] = arrange([answer("pixels", a, TRUTH), answer("moco", b[:200], TRUTH[:200])])
    with pytest.raises(DatasetError, match="answers for pneumonia are not of the same images"):
        compare(made)
