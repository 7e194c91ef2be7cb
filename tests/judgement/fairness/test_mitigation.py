import json
import shutil

import numpy as np
import pandas as pd
import pytest
from making import make_dataset

from hilum.data.store import MANIFEST, Dataset
from hilum.data.vectors import VectorFacts, Vectors
from hilum.errors import UsageError
from hilum.judgement import stats
from hilum.judgement.fairness import comparison, mitigation, mitigation_page, remedies
from hilum.judgement.fairness.groups import UNKNOWN
from hilum.judgement.probing import head
from hilum.recipe import Recipe

METHODS = ("balanced_sampling", "reweighting", "group_thresholds", "leace")


def recipe(**mitigation_values):
    return Recipe.model_validate(
        {
            "audit": {"bootstrap": 300, "min_group": 10},
            "probe": {"bootstrap": 100},
            "mitigation": {"attribute": "sex", **mitigation_values},
        }
    )


@pytest.fixture(scope="module")
def unfair(tmp_path_factory):
    """600 patients; pneumonia is more frequent in women and the embedding tells the sex, so the head leans on it."""
    folder = tmp_path_factory.mktemp("unfair")
    dataset = make_dataset(folder / "dataset", n_patients=600, images_each=1, size=16)
    random = np.random.default_rng(0)
    table = pd.read_parquet(dataset / MANIFEST)
    is_woman = (table["sex"] == "F").to_numpy()
    ill = (random.random(len(table)) < np.where(is_woman, 0.7, 0.3)).astype(float)
    table.assign(pneumonia=ill).to_parquet(dataset / MANIFEST, index=False)
    z = random.normal(size=(len(table), 4))
    z[:, 0] += 2.5 * is_woman
    z[:, 1] += 1.5 * ill
    write_vectors(dataset, folder / "vectors", z)
    return dataset, folder / "vectors"


def write_vectors(dataset, out, z):
    cohort = Dataset.open(dataset)
    rows = cohort.manifest[["image_id", "patient_id", "split"]].copy()
    rows.insert(0, "row", np.arange(len(rows)))
    run = {"code_revision": "test", "data_digest": cohort.facts.digest, "recipe_digest": "1" * 64}
    facts = VectorFacts(encoder="made", modality="XR", dim=z.shape[1], n=len(z), run=run)
    Vectors(z.astype(np.float32), rows, facts).write(out)


@pytest.fixture(scope="module")
def tried(unfair, tmp_path_factory):
    out = tmp_path_factory.mktemp("tried")
    return mitigation.run(*unfair, recipe(methods=METHODS), out), out


def row_of(found, method, metric, kind):
    chosen = found[(found["method"] == method) & (found["metric"] == metric) & (found["kind"] == kind)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_a_planted_gap_is_closed_by_what_can_close_it(tried):
    found, _ = tried
    for method in ("reweighting", "group_thresholds", "leace"):
        row = row_of(found, method, "demographic_parity", "gap")
        assert row["before"] > 0.3
        assert row["high"] < 0, method
    probe = row_of(found, "leace", "linear probe: M", "attribute")
    assert probe["before"] > 0.9
    assert probe["after"] < 0.6
    same = row_of(found, "group_thresholds", "auroc", "quality")
    assert same["difference"] == 0
    assert same["note"].startswith("unchanged")
    # Sex did tell of the label in this cohort: to do without it has a price, and the table names it.
    assert row_of(found, "leace", "auroc", "quality")["high"] < 0


def test_before_is_the_head_as_it_is(unfair, tried, tmp_path):
    found, _ = tried
    said = head.run(*unfair, "pneumonia", tmp_path, recipe().probe)
    before = row_of(found, "leace", "auroc", "quality")
    assert before["before"] == pytest.approx(said["test"]["auroc"]["value"])
    assert row_of(found, "reweighting", "tpr", "quality")["before"] == pytest.approx(
        said["test"]["sensitivity"]["value"]
    )


def test_differences_are_after_less_before(tried):
    found, out = tried
    known = found.dropna(subset=["difference"])
    np.testing.assert_allclose(known["difference"], known["after"] - known["before"])
    bounded = known.dropna(subset=["low"])
    clear = (bounded["low"] > 0) | (bounded["high"] < 0)
    assert bounded.loc[clear, "p"].max() < 0.06
    assert bounded.loc[~clear, "p"].min() > 0.04
    of_leace = found[found["method"] == "leace"]
    np.testing.assert_allclose(of_leace["p_holm"], stats.holm(of_leace["p"]))
    gaps = bounded[bounded["kind"] == "gap"]
    assert (gaps["low"] <= gaps["difference"] + 1e-9).all()
    assert (gaps["high"] >= gaps["difference"] - 1e-9).all()
    written = pd.read_csv(out / "mitigation.csv", keep_default_na=False, na_values={"difference": [""]})
    assert list(written["metric"]) == list(found["metric"])
    np.testing.assert_allclose(written["difference"], found["difference"])
    assert set(found["method"]) == set(METHODS)


def test_each_head_says_how_it_was_treated_and_answers_alone(unfair, tried):
    _, out = tried
    embedded = Vectors.open(unfair[1])
    z = np.asarray(embedded.z_ND, dtype=float)
    for method in ("balanced_sampling", "reweighting", "leace"):
        said = head.facts(out / method)
        assert said["answered"]
        assert said["mitigation"]["method"] == method
        assert said["mitigation"]["attribute"] == "sex"
        assert said["label"] == "pneumonia"
        assert np.isfinite(head.Head.load(out / method).predict(z)).all()
    assert not (out / "group_thresholds").exists()  # it needs to know the group


def test_the_head_of_erased_embeddings_is_folded_onto_raw_ones(unfair):
    material, _ = mitigation._material(*unfair, recipe(methods=["leace"]))
    treated = remedies.METHODS["leace"](material, remedies.untreated(material))
    erased = treated.erased(material.z_ND)
    plain = material.fit(erased)
    np.testing.assert_allclose(treated.head.predict(material.z_ND), plain.predict(erased), atol=1e-9)


def test_the_test_split_has_no_say(unfair):
    """With every test label and every test vector changed, each method learns the same."""
    material, _ = mitigation._material(*unfair, recipe(methods=METHODS))
    z, y = material.z_ND.copy(), material.y_N.copy()
    z[material.tested], y[material.tested] = 9.0, 1 - y[material.tested]
    other = remedies.Material(
        z, y, material.patient_N, material.level_N, material.fitted, material.tested, material.recipe
    )
    for method in METHODS:
        ours, theirs = (remedies.METHODS[method](one, remedies.untreated(one)) for one in (material, other))
        assert ours.did == theirs.did
        np.testing.assert_array_equal(ours.head.weight, theirs.head.weight)
        assert ours.head.threshold == theirs.head.threshold


def test_weights_make_the_label_independent_of_the_group(unfair, monkeypatch):
    given = {}
    material, _ = mitigation._material(*unfair, recipe(methods=METHODS))
    y = material.y_N.copy()
    fitted = material.fitted
    women = material.level_N[fitted] == "F"
    y[fitted[women & (np.arange(len(fitted)) % 3 == 0)]] = 0.0  # fewer women have it
    level = material.level_N.copy()
    level[fitted[:20]] = UNKNOWN
    uneven = remedies.Material(material.z_ND, y, material.patient_N, level, fitted, material.tested, material.recipe)
    before = remedies.untreated(uneven)
    monkeypatch.setattr(
        remedies.Material, "fit", lambda self, z, weight_N=None: given.update(weight=weight_N) or before.head
    )
    remedies.METHODS["reweighting"](uneven, before)
    weight, known = given["weight"], level[fitted] != UNKNOWN
    shares = [
        np.average(y[fitted][level[fitted] == name], weights=weight[level[fitted] == name]) for name in ("F", "M")
    ]
    assert shares[0] == pytest.approx(shares[1])
    assert shares[0] == pytest.approx(y[fitted][known].mean())  # neither the label nor the group is made more frequent
    assert weight[level[fitted] == "F"].sum() == pytest.approx((level[fitted] == "F").sum())
    assert (weight[~known] == 1).all()

    fewer = remedies.Material(
        material.z_ND, y, material.patient_N, level, fitted[~women | (np.arange(len(fitted)) % 3 == 0)],
        material.tested, material.recipe,
    )  # fmt: skip
    treated = remedies.METHODS["balanced_sampling"](fewer, before)
    weight, of = given["weight"], level[fewer.fitted]
    drawn = {name: weight[of == name].sum() for name in ("F", "M")}  # one image of each patient
    assert drawn["F"] == drawn["M"] == treated.did["drawn_to"]
    assert np.ptp(weight[of == "F"]) <= 1
    assert (weight == np.round(weight)).all()


def test_applying_says_so_and_nothing_is_applied_unasked(unfair, tmp_path):
    head.run(*unfair, "pneumonia", tmp_path / "probe", recipe().probe)
    before = (tmp_path / "probe" / "head.npz").read_bytes()
    assert "mitigation" not in mitigation.apply(*unfair, recipe(methods=METHODS), tmp_path / "probe")
    assert (tmp_path / "probe" / "head.npz").read_bytes() == before
    said = mitigation.apply(*unfair, recipe(applied="leace"), tmp_path / "probe")
    assert said["mitigation"]["method"] == "leace"
    assert (tmp_path / "probe" / "head.npz").read_bytes() != before
    assert json.loads((tmp_path / "probe" / "head.json").read_text())["mitigation"]["attribute"] == "sex"


def test_what_cannot_be_done_is_said_and_never_replaced_by_the_untreated_head(unfair, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(unfair[0], dataset)
    table = pd.read_parquet(dataset / MANIFEST).assign(sex="F")
    table.to_parquet(dataset / MANIFEST, index=False)
    write_vectors(dataset, tmp_path / "vectors", np.asarray(Vectors.open(unfair[1]).z_ND))
    case = (dataset, tmp_path / "vectors")
    found = mitigation.run(*case, recipe(methods=METHODS), tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "mitigation.json").read_text())
    assert len(found) == 0
    assert all(not did["done"] and did["why"] for did in facts["methods"].values())
    assert "Could not be carried out" in (tmp_path / "out" / "mitigation.html").read_text()
    head.run(*case, "pneumonia", tmp_path / "probe", recipe().probe)
    said = mitigation.apply(*case, recipe(applied="leace"), tmp_path / "probe")
    assert said["answered"] is False
    assert "1 known level" in said["why"]
    assert not (tmp_path / "probe" / "head.npz").exists()


def test_small_groups_are_insufficient_data(unfair, tmp_path):
    few = recipe(methods=["reweighting"]).model_copy(
        update={"audit": recipe().audit.model_copy(update={"min_group": 500})}
    )
    found = mitigation.run(*unfair, few, tmp_path)
    gaps = found[found["kind"] != "quality"]
    assert gaps["difference"].isna().all()
    assert gaps["note"].str.startswith("insufficient data").all()
    assert "insufficient data" in (tmp_path / "mitigation.html").read_text()


def test_the_page_can_be_traced_and_names_nobody(unfair, tried):
    _, out = tried
    page = (out / "mitigation.html").read_text()
    facts = json.loads((out / "mitigation.json").read_text(), parse_constant=pytest.fail)
    for part in facts["run"].values():
        assert part in page
    assert "made by a test" in page
    assert "What it costs everybody" in page
    assert "Nothing here has been applied" in page
    for patient in Dataset.open(unfair[0]).manifest["patient_id"].iloc[:50]:
        assert patient not in page


def test_a_recipe_without_methods_is_refused(unfair, tmp_path):
    with pytest.raises(UsageError, match="names no mitigation"):
        mitigation.run(*unfair, recipe(), tmp_path)
    with pytest.raises(UsageError, match="no attribute 'race'"):
        mitigation.run(*unfair, recipe(methods=["leace"], attribute="race"), tmp_path)


def test_unchanged_ways_have_no_difference_and_opposite_ones_opposite():
    random = np.random.default_rng(0)
    patient = np.arange(400)
    level, y = np.array(["a", "b"])[patient % 2], (random.random(400) < 0.5).astype(float)
    good = np.clip(0.4 * y + random.uniform(0, 0.6, 400), 0, 1)
    bad = random.uniform(0, 1, 400)
    ways = [(p, (p > 0.5).astype(float)) for p in (good, bad)]
    case = (y, patient, level)
    there = comparison.table(*case, ways[0], ways[1], recipe().audit, "group").set_index(["kind", "metric"])
    back = comparison.table(*case, ways[1], ways[0], recipe().audit, "group").set_index(["kind", "metric"])
    for key in (("quality", "auroc"), ("quality", "brier"), ("gap", "equal_opportunity")):
        assert there.loc[key, "difference"] == pytest.approx(-back.loc[key, "difference"])
        assert there.loc[key, "low"] == pytest.approx(-back.loc[key, "high"])
    assert there.loc[("quality", "auroc"), "high"] < 0
    same = comparison.table(*case, ways[0], ways[0], recipe().audit, "group")
    assert (same["difference"] == 0).all()
    assert same["note"].str.startswith("unchanged").all()


def test_one_changed_image_is_no_established_change():
    """A third of the resamples never draw it: they say that nothing changed, and must not be moved off zero."""
    random = np.random.default_rng(3)
    y = np.tile([1.0, 1.0, 0.0], 80)
    level = np.repeat(["F", "M"], 120).astype(np.str_)
    score = random.random(240)
    called = (random.random(240) < np.where(level == "F", 0.5, 0.8)).astype(float)
    changed = called.copy()
    changed[np.flatnonzero((level == "F") & (y == 1) & (called == 0))[0]] = 1.0
    case = (y, np.arange(240) // 3, level)
    found = comparison.table(*case, (score, called), (score, changed), recipe().audit, "group")
    rows = found.set_index(["kind", "metric"]).loc[[("worst group", "worst_group_tpr"), ("gap", "equal_opportunity")]]
    assert np.allclose(rows["difference"].abs(), 1 / 80)
    assert (rows["low"] <= 0).all()
    assert (rows["high"] >= 0).all()
    assert (rows["p"] > 0.5).all()


@pytest.mark.parametrize(
    ("label", "said", "unsaid"),
    [("no_finding", "ill called healthy", "false-positive rate"), ("pneumonia", "false-positive rate", "healthy")],
)
def test_what_is_of_the_healthy_is_called_so(label, said, unsaid):
    row = dict.fromkeys(comparison.COLUMNS, 0.1) | {"method": "leace", "kind": "quality", "note": ""}
    found = pd.DataFrame([row | {"metric": metric} for metric in ("auroc", "tpr", "fpr")])
    facts = {
        "label": label, "attribute": "sex", "encoder": "moco", "modality": "XR", "run": {"code_revision": "c"},
        "methods": {"leace": {"done": True, "rank": 1, "n": 100, "dim": 2}},
    }  # fmt: skip
    page = mitigation_page.page_of(facts, found, "")
    assert said in page
    assert unsaid not in page.partition("How to read this")[0]
