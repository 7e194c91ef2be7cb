"""The cards: front matter that parses, and no figure that is not in the evidence."""

import json
import math
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from releasing import LENIENT, SERVING, audit, gated, phantom_dataset, trained

from hilum.data import expectations
from hilum.data.store import Dataset
from hilum.delivery import cards
from hilum.delivery.cards import cohort, markdown, writing
from hilum.delivery.dossier import draw_up
from hilum.delivery.releasing import export
from hilum.judgement.gate import verdict as verdicts
from hilum.judgement.gate.override import Override
from hilum.recipe import Export

TEMPLATES = Path(cards.__file__).parent
NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?![\w-])")
SHORTCUTS = {
    "encoder": "pixels",
    "modality": "XR",
    "label": "pneumonia",
    "label_known": {"n": 283},
    "entries": [
        {
            "attribute": "site", "auroc": 0.912, "low": 0.871, "high": 0.953, "n": 283, "n_patients": 61,
            "association": {"auroc": 0.507, "low": 0.441, "high": 0.573}, "verdict": "decodable",
            "words": "The site can be told from the embedding in 91 of 100 pairs | *but* goes with nothing.",
        }
    ],
    "positions": [{"found": True, "words": "Images of site south lie 2.5 px further right."}],
    "clusters": {"found": [{"explained": False, "words": "Cluster 3 (44 images) is explained by nothing."}]},
    "not_asked": {"scanner": "the dataset has no such column"},
}  # fmt: skip


@pytest.fixture(scope="module")
def release(base, tmp_path_factory):
    """A release with everything: shortcuts, a validation, an override, and a dataset larger than any test has."""
    folder = tmp_path_factory.mktemp("cards")
    passed = gated(base, "XR")
    findings = shutil.copytree(passed.findings, folder / "findings")
    (findings / "shortcuts.json").write_text(json.dumps(SHORTCUTS))
    (findings / "audit.json").write_text(json.dumps({**audit(), "drift": {"share": 0.137, "drifted": False}}))
    strict = LENIENT.model_copy(update={"min_auroc": 0.99, "outside": ("age_band=0-20",)})
    verdicts.run([passed.scores], [findings], strict, "pixels", "pneumonia", folder / "gate")
    expectations.validate(phantom_dataset(base), folder / "validation")
    judged = replace(
        passed, findings=findings, verdict=folder / "gate", validation=folder / "validation",
        override=Override.of("Dr Example", "a test, *with* | marks <i>"),
    )  # fmt: skip
    run, _ = trained(base, "XR")
    recipe = Export(encoder="pixels")
    return export.export(phantom_dataset(base), run, recipe, folder / "r", serving=SERVING, judged=judged)


def numbers_of(release):
    """Every number in the release's JSON and CSV, in words too, and the lengths of its lists."""
    found = set()

    def collect(value):
        if isinstance(value, bool) or value is None:
            return
        if isinstance(value, int | float):
            found.add(float(value))
        elif isinstance(value, str):
            found.update(float(token.replace(",", "")) for token in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", value))
        elif isinstance(value, list):
            found.add(float(len(value)))
            for one in value:
                collect(one)
        else:
            for one in value.values():
                collect(one)

    for path in [release / "card.json", *(release / "evidence").glob("*.json")]:
        collect(json.loads(path.read_text()))
    for path in (release / "evidence").glob("*.csv"):
        collect(pd.read_csv(path).astype("object").where(lambda t: t.notna(), None).to_dict("records"))
    checks = json.loads((release / "evidence" / "validation.json").read_text())["checks"]
    return found | {float(sum(check["ok"] for check in checks))}


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "DATASET_CARD.md"])
def test_every_figure_on_a_card_is_in_the_evidence(release, name):
    text = (release / name).read_text()
    template = (TEMPLATES / f"{name.lower()}.j2").read_text()
    own = set(NUMBER.findall(re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", template)))  # words of the template: a 95% interval
    known = numbers_of(release)
    told = [token for token in NUMBER.findall(re.sub(r"`[^`]*`", "", text)) if token not in own]
    assert len(told) > 40
    for token in told:
        places = len(token.partition(".")[2])
        figure = float(token.replace(",", ""))
        assert any(math.isclose(figure, one, abs_tol=0.5000001 * 10**-places) for one in known), token


def test_a_figure_that_is_not_in_the_evidence_would_be_found(release, tmp_path):
    """The test above can fail: a figure that the evidence does not have is not among its numbers."""
    known = numbers_of(release)
    assert not any(math.isclose(0.4321, one, abs_tol=0.00005) for one in known)


def test_the_front_matter_is_what_hugging_face_reads(release):
    card = json.loads((release / "card.json").read_text())
    front = yaml.safe_load((release / "MODEL_CARD.md").read_text().split("---\n")[1])
    assert front["library_name"] == "onnx"
    assert "not-for-clinical-use" in front["tags"]
    read = ModelCard((release / "MODEL_CARD.md").read_text()).data
    [auroc] = [one for one in read.eval_results if one.metric_type == "roc_auc"]
    assert auroc.metric_value == pytest.approx(card["head"]["auroc"]["value"], abs=5e-5)
    assert (auroc.dataset_name, auroc.dataset_split, auroc.task_type) == ("phantom", "test", "image-classification")
    told = DatasetCard((release / "DATASET_CARD.md").read_text()).data
    assert (told.license, told.size_categories) == ("other", ["n<1K"])
    assert told.tags == ["medical", "x-ray", "mri"]


def test_the_model_card_says_what_it_is_for_and_who_let_it_out(release):
    text = (release / "MODEL_CARD.md").read_text()
    for said in (
        "**Not for clinical use.**",
        "## Intended use",
        "## Out of scope",
        "for whom it was not released: age band: 0-20",
        "of whom too few patients were seen: sex: M",
        "| sex | F | 40 | 20 | 12 | 0.900 [0.810, 0.950] |",
        "| sex | M | 40 | 20 | 12 | insufficient data |",
        "- site (decodable): The site can be told from the embedding in 91 of 100 pairs \\| \\*but\\* goes",
        "lie 2.5 px further right",
        "Cluster 3 (44 images)",
        "- scanner: unknown, since the dataset has no such column.",
        "Verdict: **fail**.",
        "a test, \\*with\\* \\| marks \\<i\\>",
        "0.137 of the columns that were compared differ, which is not called drift",
    ):
        assert said in text, said


def test_the_tables_of_a_card_have_as_many_cells_as_their_heads(release):
    for name in ("MODEL_CARD.md", "DATASET_CARD.md"):
        lines = (release / name).read_text().splitlines()
        for above, rule in pairwise(lines):
            if re.fullmatch(r"\|(-+:?\|)+", rule):
                width = len(re.findall(r"(?<!\\)\|", above))
                assert len(re.findall(r"\|", rule)) == width, above
                for row in lines[lines.index(rule, lines.index(above)) + 1 :]:
                    if not row.startswith("|"):
                        break
                    assert len(re.findall(r"(?<!\\)\|", row)) == width, row


def test_the_dataset_card_counts_what_the_manifest_has(release, base):
    dataset = Dataset.open(phantom_dataset(base))
    table, text = dataset.manifest, (release / "DATASET_CARD.md").read_text()
    for (modality, split), rows in table.groupby(["modality", "split"]):
        assert f"| {modality} | {split} | {len(rows)} | {rows['patient_id'].nunique()} |" in text
    women = table[table["sex"] == "F"]
    assert f"| sex | F | {len(women)} | {women['patient_id'].nunique()} |" in text
    ill = table["pneumonia"]
    counts = f"{int((ill == 1).sum())} | {int((ill == 0).sum())} | {int((ill == -1).sum())} | {int(ill.isna().sum())}"
    assert f"| pneumonia | {counts} |" in text
    missing = table["crp_mg_per_l"].isna()
    assert f"| crp mg per l | {missing.sum()} | {missing.mean():.3f} |" in text
    validation = json.loads((release / "evidence" / "validation.json").read_text())
    for check in validation["checks"]:
        if not check["ok"]:
            assert markdown.plain(check["asks"]) in text


def test_what_is_not_known_is_said_to_be_unknown(xr_release):
    model, dataset = ((xr_release / name).read_text() for name in ("MODEL_CARD.md", "DATASET_CARD.md"))
    assert "Unknown: no shortcut audit was given" in model
    assert "Unknown: no result of a validation was given" in dataset
    assert "How labels were resolved that the source calls uncertain is unknown." in dataset


def test_an_encoder_without_a_head_has_no_results_and_a_card_all_the_same(mr_release):
    card = ModelCard((mr_release / "MODEL_CARD.md").read_text())
    assert card.data.eval_results is None
    assert "It answers embeddings only: the dataset knows pneumonia for no MR image." in card.text
    assert "Verdict: **not asked**." in card.text


def test_policies_and_limits_of_the_ingest_are_told(release, base, tmp_path):
    """A dataset of its own: one that says how it was ingested, with uncertain labels among its own."""
    dataset = shutil.copytree(phantom_dataset(base), tmp_path / "dataset")
    table = pd.read_parquet(dataset / "manifest.parquet")
    table.loc[:4, "pneumonia"] = -1.0
    table.to_parquet(dataset / "manifest.parquet", index=False)
    recipe = {"uncertain": {"pneumonia": "ones"}, "views": ["PA"], "limit": 1500, "options": {"vitals": "/a/path"}}
    (dataset / "ingest.json").write_text(json.dumps({"recipe": recipe}))
    copy = shutil.copytree(release, tmp_path / "release")
    made = cohort.describe(Dataset.open(dataset))
    assert "/a/path" not in json.dumps(made)
    assert made["labels"][1] == {
        "label": "pneumonia",
        "present": int((table["pneumonia"] == 1).sum()),
        "absent": int((table["pneumonia"] == 0).sum()),
        "uncertain": 5,
        "unknown": int(table["pneumonia"].isna().sum()),
    }
    (copy / "evidence" / "cohort.json").write_text(json.dumps(made))
    writing.write(copy)
    text = (copy / "DATASET_CARD.md").read_text()
    assert "uncertain: pneumonia taken as present; any other is kept apart" in text
    assert "up to 1,500 images" in text


def test_no_patient_stands_on_a_card_and_the_dossier_names_both(release, base):
    ids = Dataset.open(phantom_dataset(base)).manifest[["patient_id", "image_id", "study_id"]].to_numpy().ravel()
    text = "".join((release / name).read_text() for name in ("MODEL_CARD.md", "DATASET_CARD.md"))
    assert not [one for one in set(ids) if one in text]
    named = {link.get("file") for link in draw_up(release, {})["links"]}
    assert {"MODEL_CARD.md", "DATASET_CARD.md", "evidence/cohort.json"} <= named
