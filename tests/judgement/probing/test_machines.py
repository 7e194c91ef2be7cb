import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from hilum.judgement.probing import knn, logistic, machines, mlp
from hilum.judgement.probing.svm import scaler
from hilum.ranking import auroc
from hilum.recipe import Probe

MACHINES = ("linear", "rbf", "logistic", "knn", "mlp")


def judge(truth, score, fold):
    return auroc(truth, score)


def mean_error(truth, score, fold):
    return -float(np.abs(truth - score).mean())


@pytest.fixture
def few(monkeypatch):
    """Small grids, so that a naive search is quick."""
    monkeypatch.setattr(logistic, "C_GRID", (0.03, 30.0))
    monkeypatch.setattr(knn, "K_GRID", (4, 9))
    monkeypatch.setattr(mlp, "ALPHAS", (0.01,))
    monkeypatch.setattr(mlp, "EPOCHS", (2, 30))
    monkeypatch.setattr(mlp, "HIDDEN", 16)
    monkeypatch.setattr(mlp, "RATE", 1e-2)
    return Probe(c_grid=(0.01, 1.0), scalings=("feature", "whole"))


@pytest.mark.parametrize("machine", MACHINES)
def test_settings_are_those_of_a_naive_search_and_see_no_patient_twice(machine, few):
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 3)
    z = random.normal(size=(120, 5)) * [1, 10, 100, 1, 1] + 7
    z[:, 4] = 2.0  # never varies
    age = 50 + np.repeat(random.normal(size=40), 3) * 10 + z[:, 0]  # a patient's rows are alike
    found = machines.fit_and_score(z, age, patients, z[:1], "regression", machine, few, mean_error)
    errors = {}
    for setting in machines._settings(machine, few, len(z)):
        score = np.zeros(len(z))
        for fit, held in GroupKFold(3).split(z, groups=patients):
            assert not set(patients[fit]) & set(patients[held])
            scale = scaler(z[fit], setting.scaling)
            data = (scale(z[fit]), age[fit], scale(z[held]))
            (score[held],) = machines._scores(*data, "regression", machine, [setting], few.seed, False)
        errors[setting] = np.abs(age - score).mean()
    assert found.setting == min(errors, key=lambda setting: errors[setting])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_machine_reads_planted_classes_and_numbers(machine, n_classes, few):
    random = np.random.default_rng(1)
    y = np.repeat(np.arange(100) % n_classes, 2).astype(float)
    z = random.normal(size=(200, 4)) + 3 * np.eye(4)[y.astype(int)]
    patients = np.repeat(np.arange(100), 2)

    def right(truth, score, fold):
        return float((score.argmax(1) == truth).mean())

    found = machines.fit_and_score(z[:150], y[:150], patients[:150], z[150:], "multiclass", machine, few, right)
    assert found.score.shape == (50, n_classes)
    assert (found.score.argmax(1) == y[150:]).mean() > 0.85
    number = 50 + 10 * z[:, 0]
    found = machines.fit_and_score(
        z[:150], number[:150], patients[:150], z[150:], "regression", machine, few, mean_error
    )
    assert np.corrcoef(found.score, number[150:])[0, 1] > 0.6


@pytest.mark.parametrize("machine", MACHINES)
def test_a_score_of_zero_is_undecided_whatever_the_prevalence(machine, few):
    """One in ten is positive; a machine that answered the prevalence would call almost none."""
    random = np.random.default_rng(2)
    y = (np.arange(900) % 10 == 0).astype(float)
    z = random.normal(size=(900, 3))
    z[:, 0] += 1.5 * y
    recipe = few.model_copy(update={"scalings": ("feature",)})
    found = machines.fit_and_score(z[:600], y[:600], np.arange(600), z[600:], "binary", machine, recipe, judge)
    called = found.score > 0
    assert called[y[600:] == 1].mean() > 0.5
    assert called[y[600:] == 0].mean() < 0.5


@pytest.mark.parametrize("exact_rows", [1000, 100])
@pytest.mark.parametrize("machine", MACHINES)
def test_what_calibrates_comes_from_strangers(machine, exact_rows, few, monkeypatch):
    """Pure noise that repeats within a patient: scored by a machine that saw the patient, it would rank."""
    monkeypatch.setattr(knn, "K_GRID", (4,))
    monkeypatch.setattr(mlp, "EPOCHS", (60,))
    monkeypatch.setattr(mlp, "budgets", lambda n: (60,))
    random = np.random.default_rng(3)
    patients = np.repeat(np.arange(60), 4)
    y = np.repeat(np.arange(60) % 2, 4).astype(float)
    z = np.repeat(random.normal(size=(60, 50)), 4, axis=0) + 0.01 * random.normal(size=(240, 50))
    recipe = few.model_copy(update={"exact_rows": exact_rows, "c_grid": (1.0,), "scalings": ("feature",)})
    found = machines.fit_and_score(z, y, patients, z, "binary", machine, recipe, judge)
    assert len(found.unseen_y) == (240 if exact_rows > 240 else 80)
    assert auroc(found.unseen_y, found.unseen_score) < 0.8
    assert auroc(y, found.score) > 0.9, "the machine does learn the training patients by heart"


def test_out_of_fold_scores_are_made_even_where_there_is_nothing_to_choose():
    random = np.random.default_rng(4)
    y = np.arange(60) % 2.0
    z = random.normal(size=(60, 3)) + y[:, None]
    one = Probe(c_grid=(1.0,), scalings=("feature",))
    assert len(machines.fit_and_score(z, y, np.arange(60), z, "binary", "linear", one, judge).unseen_y) == 60
    assert len(machines.fit_and_score(z, z[:, 0], np.arange(60), z, "regression", "linear", one, judge).unseen_y) == 0


@pytest.mark.parametrize("exact_rows", [1000, 100])
def test_uncertain_rows_teach_but_do_not_judge(exact_rows):
    random = np.random.default_rng(5)
    y = (random.random(300) < 0.5).astype(float)
    z = random.normal(size=(300, 3)) + y[:, None]
    certain = np.arange(300) % 3 > 0
    recipe = Probe(exact_rows=exact_rows, c_grid=(1.0,), scalings=("feature",))
    seen = []

    def watch(truth, score, fold):
        seen.append(len(truth))
        return 0.0

    found = machines.fit_and_score(z, y, np.arange(300), z[:5], "binary", "linear", recipe, watch, certain)
    plain = machines.fit_and_score(
        z[certain], y[certain], np.arange(300)[certain], z[:5], "binary", "linear", recipe, judge
    )
    assert np.abs(found.score - plain.score).max() > 1e-6, "the uncertain rows are fitted on"
    two = Probe(exact_rows=exact_rows, c_grid=(0.1, 1.0), scalings=("feature",))
    machines.fit_and_score(z, y, np.arange(300), z[:5], "binary", "linear", two, watch, certain)
    assert seen[0] == certain[machines.sample_patients(np.arange(300), exact_rows, 0, y)].sum()
    assert len(found.unseen_y) == (
        200 if exact_rows == 1000 else certain[machines.sample_patients(np.arange(300), 100, 0)].sum()
    )


def test_a_sample_is_fitted_on_only_where_a_limit_is_asked_for():
    random = np.random.default_rng(6)
    y = np.arange(600) % 2.0
    z = random.normal(size=(600, 3)) + y[:, None]
    for limit, said in ((None, 0), (300, 1)):
        recipe = Probe(max_rows=limit, c_grid=(1.0,), scalings=("feature",))
        found = machines.fit_and_score(z, y, np.arange(600) // 2, z[:5], "binary", "linear", recipe, judge)
        assert len(found.notes) == said
    assert "sample of 300 of 600" in found.notes[0]


def test_samples_hold_whole_patients_and_keep_the_rare():
    patients = np.repeat(np.arange(1000), 3)
    y = (patients < 5).astype(float)
    rows = machines.sample_patients(patients, 300, 0, y)
    assert 300 <= len(rows) <= 303
    assert y[rows].sum() == 15
    assert (np.bincount(patients[rows])[np.unique(patients[rows])] == 3).all()
    np.testing.assert_array_equal(rows, machines.sample_patients(patients, 300, 0, y))
    np.testing.assert_array_equal(machines.sample_patients(patients, 3000, 0), np.arange(3000))


def test_a_rare_class_of_few_patients_still_gets_a_setting():
    random = np.random.default_rng(0)
    y = (np.arange(40) < 2).astype(float)  # two patients: an inner fold may lack the class
    z = random.normal(size=(40, 3))
    found = machines.fit_and_score(z, y, np.arange(40), z, "binary", "rbf", Probe(), judge)
    assert np.isfinite(found.score).all()
