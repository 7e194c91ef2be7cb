import numpy as np
import pytest
from fairlearn.postprocessing import ThresholdOptimizer

from hilum.judgement.fairness import thresholds


def scores(n=1500, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, n)
    group = np.where(random.random(n) < 0.3, "F", "M")
    return truth, np.clip(0.3 + 0.3 * truth - 0.15 * (group == "F") * truth + random.normal(0, 0.15, n), 0, 1), group


@pytest.mark.parametrize("constraint", ["equal_opportunity", "equalized_odds", "demographic_parity"])
def test_calls_are_those_of_fairlearn_on_average(constraint):
    truth, score, group = scores()
    rules = thresholds.fit(truth, score, group, constraint)
    called = np.zeros(len(truth))
    for name, rule in rules.items():
        called[group == name] = rule(score[group == name])
    optimizer = ThresholdOptimizer(
        estimator=thresholds._Given(),
        constraints=thresholds._NAMED[constraint],
        objective="balanced_accuracy_score",
        prefit=True,
        predict_method="predict_proba",
    ).fit(score[:, None], truth, sensitive_features=group)
    drawn = np.mean(
        [optimizer.predict(score[:, None], sensitive_features=group, random_state=k) for k in range(50)], axis=0
    )
    assert np.abs(called - drawn).max() < 0.35  # of single persons over 50 lots
    assert called.mean() == pytest.approx(drawn.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("constraint", "of"), [("equal_opportunity", [1]), ("equalized_odds", [0, 1]), ("demographic_parity", None)]
)
def test_what_was_to_be_equal_is_equal_where_it_was_fitted(constraint, of):
    truth, score, group = scores()
    rules = thresholds.fit(truth, score, group, constraint)
    for value in of or [None]:
        chosen = np.ones(len(truth), dtype=bool) if value is None else truth == value
        rate = [rules[name](score[chosen & (group == name)]).mean() for name in ("F", "M")]
        assert rate[0] == pytest.approx(rate[1], abs=0.01)


def test_facts_have_no_number_that_json_lacks():
    rule = thresholds.Rule((thresholds.Step(0.25, True, np.inf), thresholds.Step(0.75, True, 0.4)), 0.0, 0.0)
    assert rule.facts()["steps"][0] == {"share": 0.25, "above": True, "threshold": None}
    np.testing.assert_array_equal(rule(np.array([0.3, 0.5])), [0.0, 0.75])
