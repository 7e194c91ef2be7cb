"""The reports' summaries: figures are the run's own, files of several runs are refused, nobody is named."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_vectors import make_vectors

from hilum.data import expectations, parquet
from hilum.data.store import FACTS, MANIFEST
from hilum.errors import DatasetError, HilumError, UsageError
from hilum.judgement import judge
from hilum.recipe import Recipe, digest, parse, read

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from reports import __main__ as command  # noqa: E402
from reports import markdown, page, reading  # noqa: E402

RECIPE: Recipe = parse(
    {
        "ingest": {"layout": "folder", "preprocessing": {"size": 32}},
        "probe": {"bootstrap": 100, "min_cases": 2, "kernels": ["linear"], "c_grid": [1.0], "scalings": ["feature"],
                  "efficiency": {"fractions": [0.1, 1.0], "draws": 2, "labels": ["pneumonia"], "min_cases": 2}},
        "audit": {"bootstrap": 100, "min_group": 2, "groups": ["sex", "view", "sex+view"]},
        "shortcuts": {"attributes": ["sex", "source"], "permutations": 99, "bootstrap": 100, "min_group": 4},
        "mitigation": {"methods": ["reweighting", "leace"]},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: the steps' own folders and what the pipeline publishes of them."""
    out = tmp_path_factory.mktemp("run") / "out"
    steps = out / reading.PIPELINE / "run-1"
    steps.mkdir(parents=True)
    shutil.copytree(tiny_dataset, steps / "ingest" / "dataset")
    expectations.validate(tiny_dataset, steps / "validate")
    names, encoders = ("moco", "pixels"), []
    for name in names:
        vectors = make_vectors(tiny_dataset, steps / name / "vectors", name, {"moco": 2.0, "pixels": 1.0}[name])
        judge.probe(tiny_dataset, vectors, RECIPE, steps / name / "scores")
        judge.audit(tiny_dataset, vectors, steps / name / "scores", RECIPE, steps / name / "findings")
        (steps / name / "encoder").mkdir()
        encoders.append(steps / name / "encoder")
    scores, findings = ([steps / name / part for name in names] for part in ("scores", "findings"))
    judge.compare(steps / "validate", scores, findings, [steps / name / "tuned" for name in names], out)
    judge.gate(encoders, scores, findings, RECIPE, steps / "gate" / "candidate", out / "gate")
    shutil.copyfile(steps / "validate" / "verdict.json", out / "verdict.json")
    return out


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return page.write(reading.Report.read(run, RECIPE))


def row(text: str, *beginning: str) -> list[str]:
    """The cells of the first line of a table that begins so."""
    lead = "| " + " | ".join(beginning) + " |"
    line = next(line for line in text.splitlines() if line.startswith(lead))
    return [cell.strip() for cell in line.strip("|").split("|")]


def section(text: str, title: str) -> str:
    """What stands below a heading that begins so."""
    return text.partition(f"\n## {title}")[2].partition("\n## ")[0]


def test_the_data_are_counted(text: str, tiny_dataset: Path) -> None:
    table = parquet.read(tiny_dataset / MANIFEST)
    test = table[table["split"] == "test"]
    assert row(text, "test (held out)")[1:] == [str(len(test)), str(test["patient_id"].nunique())]
    ill = table["pneumonia"]
    assert row(text, "pneumonia")[1:4] == [str(int(n)) for n in ((ill == 1).sum(), (ill == 0).sum(), ill.isna().sum())]
    women = table[table["sex"] == "F"]
    assert f"- sex: F {len(women)} of {women['patient_id'].nunique()};" in text


def test_scores_are_those_of_the_probe_and_gains_those_of_the_leaderboard(text: str, run: Path) -> None:
    scores = [pd.read_csv(run / f"xr-{name}" / "scores.csv") for name in ("pixels", "moco")]
    cells = row(text, "pneumonia", "AUROC")
    for cell, table in zip(cells[4:6], scores, strict=True):
        found = table[(table["task"] == "pneumonia") & (table["metric"] == "auroc")].iloc[0]
        assert cell == f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    compared = pd.read_csv(run / "comparisons.csv").set_index("column").loc["pneumonia_auroc"]
    assert (compared["a"], compared["b"]) == ("pixels probe", "moco probe")
    value, high, low = (0.0 - compared[name] for name in ("difference", "low", "high"))
    assert cells[6].startswith(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]")
    assert cells[6].endswith("better" if compared["p_holm"] < 0.05 else "not told apart")
    age = row(text, "age")  # an error: less is better, and the gain has the sign of better
    assert float(age[6].split()[0]) == pytest.approx(float(age[4].split()[0]) - float(age[5].split()[0]), abs=0.011)


def test_groups_gaps_and_mitigations_are_those_of_the_audit(text: str, run: Path) -> None:
    table = pd.read_csv(run / "xr-moco" / "fairness.csv")
    women = table[(table["kind"] == "group") & (table["attribute"] == "sex") & (table["group"] == "F")]
    women = women.set_index("metric")
    cells = row(text, "sex", "F")
    first = women.loc["auroc"]
    assert cells[2:4] == [f"{first['n']} of {first['n_patients']}", f"{first['n_positive']:.0f}"]
    shown = ("auroc", "tpr", "fpr", "ppv")  # of so few images there is no calibration error
    assert [cell.split()[0] for cell in cells[4:]] == [*(f"{women.loc[k, 'value']:.2f}" for k in shown), "undefined"]
    gap = table[(table["kind"] == "gap") & (table["attribute"] == "sex") & (table["metric"] == "auroc")].iloc[0]
    asked = "Are patients with the finding ranked above those without equally well? (AUROC)"
    assert row(text, "sex", asked)[2].startswith(f"{gap['value']:.2f} (")
    read_age = table[(table["kind"] == "regression gap") & (table["attribute"] == "sex") & (table["metric"] == "mae")]
    assert row(text, "sex", "Is age read equally well? (mean absolute error)")[2].startswith(
        f"{read_age['value'].iloc[0]:.2f} ("
    )
    mitigated = pd.read_csv(run / "xr-moco" / "mitigation.csv")
    auroc = mitigated[(mitigated["method"] == "leace") & (mitigated["metric"] == "auroc")].iloc[0]
    cells = row(text, "Erasing the attribute (LEACE)", "everybody: AUROC")
    assert cells[2].startswith(f"{auroc['before']:.2f} [")
    assert cells[4].startswith(f"{auroc['difference']:+.3f}")


def test_shortcuts_few_labels_drift_and_gate_are_told(text: str, run: Path) -> None:
    said = json.loads((run / "xr-moco" / "shortcuts.json").read_text())
    for entry in said["entries"]:
        assert row(section(text, "Shortcuts"), entry["attribute"])[4] == f"**{entry['verdict']}**"
        assert f"- {entry['words']}" in text
    for why in said["not_asked"].values():
        assert why in text
    curve = pd.read_csv(run / "xr-pixels" / "efficiency.csv")
    whole = curve[curve["fraction"] == 1.0].iloc[0]
    assert row(text, "100%")[1:3] == [
        f"{whole['n_patients']:.0f}", f"{whole['mean']:.3f} [{whole['low']:.3f}, {whole['high']:.3f}]",
    ]  # fmt: skip
    audited = json.loads((run / reading.PIPELINE / "run-1" / "moco" / "findings" / "audit.json").read_text())
    for name, column in audited["drift"]["columns"].items():
        if column["distance"] is not None:
            spoken = name.replace("_", " ")
            assert f"| {spoken} | {column['distance']:.3f} | {column['limit']:.3f} |" in text
    verdict = json.loads((run / "gate" / "verdict.json").read_text())
    assert f"## The gate: {verdict['verdict']}" in text
    for one in verdict["criteria"]:
        if one["verdict"] != "not asked":
            assert row(text, one["asks"])[4] == f"**{one['verdict']}**"
    assert digest(RECIPE)[:12] in text
    assert verdict["run"]["data_digest"][:12] in text


def test_nobody_is_named_and_every_table_is_one(text: str, run: Path) -> None:
    assert not re.search(r"\bp\d{3}\b", text)
    assert str(run) not in text
    assert "nan" not in text.lower().replace("finance", "")
    for block in text.split("\n\n"):
        if block.startswith("| "):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_files_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    other = RECIPE.model_copy(update={"gate": RECIPE.gate.model_copy(update={"min_auroc": 0.7})})
    with pytest.raises(DatasetError, match=r"gate in .* is of another dataset or recipe"):
        reading.Report.read(run, other)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    said = json.loads((copy / "xr-moco" / "shortcuts.json").read_text())
    said["run"]["data_digest"] = "f" * 64
    (copy / "xr-moco" / "shortcuts.json").write_text(json.dumps(said))
    with pytest.raises(DatasetError, match=r"shortcuts in .* is of another dataset or recipe"):
        reading.Report.read(copy, RECIPE)
    said["run"] = {**json.loads((run / "xr-moco" / "shortcuts.json").read_text())["run"], "code_revision": "other"}
    (copy / "xr-moco" / "shortcuts.json").write_text(json.dumps(said))
    with pytest.raises(DatasetError, match=r"keeps no audit\.json"):
        reading.Report.read(copy, RECIPE)


def test_a_missing_report_is_named(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / reading.COMPARISONS).unlink()
    with pytest.raises(DatasetError, match=r"report of the run is missing: .*comparisons\.csv"):
        reading.Report.read(copy, RECIPE)


def test_the_newest_file_that_fits_is_read(tmp_path: Path) -> None:
    for number, digest_ in enumerate(("a", "b", "a")):
        folder = tmp_path / reading.PIPELINE / f"run-{number}"
        folder.mkdir(parents=True)
        (folder / FACTS).write_text(json.dumps({"digest": digest_}))
        os.utime(folder / FACTS, (number, number))
    assert reading.kept_at(tmp_path, FACTS, lambda facts: facts["digest"] == "a").parent.name == "run-2"
    assert reading.kept_at(tmp_path, FACTS, lambda facts: facts["digest"] == "b").parent.name == "run-1"
    with pytest.raises(DatasetError, match="make the reports again"):
        reading.kept_at(tmp_path, FACTS, lambda facts: facts["digest"] == "c")


def test_a_run_that_never_reached_its_gate_is_no_report_of_an_earlier_one(run: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", command.PARSER.get_default("recipes") / "kermany.yaml"
    shutil.copytree(run / "gate", out / "gate")
    with pytest.raises(HilumError, match="before its gate could judge"):
        command.judged("kermany", tmp_path / "nowhere", recipe, out)
    assert not (out / reading.GATE).exists()


def test_errors_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--datasets", "nih,phantom"]) == UsageError.exit_status
    assert "there are no reports of phantom" in capsys.readouterr().err
    assert command.main(["--datasets", "oasis", "--sources", str(tmp_path)]) == UsageError.exit_status
    assert "no folder oasis or oasis-1" in capsys.readouterr().err


@pytest.mark.parametrize("layout", sorted(command.FOLDERS))
def test_recipes_keep_the_gates_own_tolerances(layout: str) -> None:
    recipe: Recipe = read(command.PARSER.get_default("recipes") / f"{layout}.yaml")
    assert recipe.ingest.layout == layout
    assert recipe.gate == Recipe().gate
    assert {"pixels", recipe.export.encoder} == {one.name for one in recipe.encoders}
    assert recipe.mitigation.applied == "none"
    assert layout in page.TITLES


def test_figures_say_what_is_missing() -> None:
    known = {"value": 0.5, "low": 0.4, "high": float("nan")}
    assert markdown.interval(known, 2) == "0.50 (no interval)"
    assert markdown.interval({**known, "value": float("nan")}, 2) == markdown.DASH
    assert markdown.p_value(0.0004) == "< 0.001"
    assert markdown.table(("a",), []) == ""
    assert markdown.spoken("covid_19") == "COVID-19"
