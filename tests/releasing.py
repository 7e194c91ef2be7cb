"""Releases that tests make from drawn images, by the whole way: dataset, encoder, head, export. Once per process."""

import io
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hilum.data.anatomy.cohort import COVARIATES, LABELS, shots
from hilum.data.manifest import assign_splits, conform
from hilum.data.store import FACTS, IMAGES, MANIFEST, REJECTED, DatasetFacts, write_json
from hilum.delivery.releasing import export
from hilum.delivery.releasing.sources import Judged
from hilum.judgement.fusion import head as fusing
from hilum.judgement.gate import verdict as verdicts
from hilum.judgement.gate.override import Override
from hilum.judgement.probing import head
from hilum.judgement.report import audit as audit_report
from hilum.learning import embedding, finetune, training
from hilum.recipe import Audit, Export, Gate, Pixels, Preprocessing, Train
from hilum.recipe.finetune import Finetune

SERVING = Path(__file__).resolve().parents[1] / "serving"
SIZE = 48
# What these few drawn films can show; a test asks for the rest where it is about the rest.
LENIENT = Gate(
    min_auroc=0.0,
    min_sensitivity="not asked",
    max_auroc_gap="not asked",
    max_ece="not asked",
    min_group="not asked",
    shortcut_audit="not asked",
)
SOMEBODY = Override.of("Dr Example", "Ein Phantom; kein Mensch, 100% gezeichnet – für den Betrieb")
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


@cache
def phantom_dataset(base: Path) -> Path:
    """About 430 drawn X-rays and MRIs of 80 people, 48 px."""
    path = base / "drawn" / "dataset"
    path.mkdir(parents=True)
    drawn = list(shots(patients=80, seed=11))
    rows = pd.DataFrame([shot.row for shot in drawn])
    rows["split"] = assign_splits(rows["patient_id"], SHARES, seed=0)
    conform(rows, LABELS, COVARIATES).to_parquet(path / MANIFEST, index=False)
    np.save(path / IMAGES, np.stack([shot.draw(SIZE) for shot in drawn]))
    (path / REJECTED).write_text("image_id,reason\n", encoding="utf-8")
    facts = DatasetFacts(
        layout="phantom",
        source_revision="folder",
        source_digest="0" * 64,
        digest="ab" * 32,
        code_revision="test",
        hilum_version="test",
        preprocessing=Preprocessing(size=SIZE),
        labels=LABELS,
        covariates=COVARIATES,
        n_images=len(rows),
        n_patients=int(rows["patient_id"].nunique()),
        n_rejected=0,
        licence="none",
        citation="none",
        caution="made by a test",
    )
    write_json(path / FACTS, facts.model_dump(mode="json"))
    return path


@cache
def trained(base: Path, modality: str) -> tuple[Path, Path]:
    """An encoder run of `pixels`, and the folder of its head for pneumonia."""
    dataset, run, judged = phantom_dataset(base), base / "runs" / modality, base / "judged" / modality
    training.run(dataset, Train(encoder=Pixels(components=12), modality=modality), run)
    embedding.run(dataset, run, base / "vectors" / modality)
    head.run(dataset, base / "vectors" / modality, "pneumonia", judged)
    pd.DataFrame({"task": ["sex"], "value": [0.5]}).to_csv(judged / "scores.csv", index=False)
    return run, judged


@cache
def release(base: Path, modality: str) -> Path:
    """The release of that encoder: with a head for X-rays, without for MRIs, which know no pneumonia."""
    run, _ = trained(base, modality)
    return export.export(
        phantom_dataset(base),
        run,
        Export(encoder="pixels"),
        base / "releases" / f"{modality.lower()}-pixels",
        serving=SERVING,
        judged=gated(base, modality),
    )


@cache
def gated(base: Path, modality: str) -> Judged:
    """The judgement of that encoder, which the gate lets pass: it asks for an AUROC that the head has."""
    _, scores = trained(base, modality)
    findings, verdict = base / "findings" / modality, base / "gate" / modality
    findings.mkdir(parents=True)
    (findings / "audit.json").write_text(json.dumps(audit(head.facts(scores)["answered"])))
    (scores / "probe.json").write_text(
        json.dumps({"modality": modality, "encoder": "pixels", "run": {"data_digest": "ab" * 32}, "caution": "made"})
    )
    verdicts.run([scores], [findings], LENIENT, "pixels", "pneumonia", verdict)
    return Judged(scores, findings, verdict=verdict)


@cache
def tuned(base: Path, kind: str) -> Path:
    """A fine-tuning of the X-ray encoder, frozen, with the phantom's vital signs and laboratory values."""
    run, _ = trained(base, "XR")
    section = Finetune(linear_epochs=12, linear_rates=(1e-2,), covariate_width=8, min_patients=2)
    return finetune.run(phantom_dataset(base), run, section, "linear", kind, base / "tuned" / kind)


@cache
def fused(base: Path, kind: str) -> Path:
    """The release of that encoder with a head that fuses covariates, by the whole way: probe, audit, gate, export."""
    run, linear = trained(base, "XR")
    gated(base, "XR")  # writes what a probe folder holds beside its head
    dataset, vectors, scores = phantom_dataset(base), base / "vectors" / "XR", base / "judged" / f"XR-{kind}"
    shutil.copytree(linear, scores)
    fusing.adopt(dataset, vectors, tuned(base, kind), scores)
    findings, verdict = base / "findings" / f"XR-{kind}", base / "gate" / kind
    audit_report.run(dataset, vectors, scores, Audit(bootstrap=100, min_group=2), findings)
    verdicts.run([scores], [findings], LENIENT, "pixels", "pneumonia", verdict)
    judged = Judged(scores, findings, verdict=verdict)
    out = base / "releases" / f"xr-{kind}"
    return export.export(dataset, run, Export(encoder="pixels"), out, serving=SERVING, judged=judged)


@cache
def failing(base: Path) -> Judged:
    """The judgement of the X-ray encoder by a gate that it cannot pass."""
    passed, verdict = gated(base, "XR"), base / "gate" / "strict"
    strict = LENIENT.model_copy(update={"min_auroc": 1.0})
    assert passed.scores is not None
    assert passed.findings is not None
    verdicts.run([passed.scores], [passed.findings], strict, "pixels", "pneumonia", verdict)
    return replace(passed, verdict=verdict)


@cache
def overridden(base: Path) -> Path:
    """A release of it that somebody answers for."""
    run, _ = trained(base, "XR")
    judged = replace(failing(base), override=SOMEBODY)
    out = base / "releases" / "overridden"
    return export.export(phantom_dataset(base), run, Export(encoder="pixels"), out, serving=SERVING, judged=judged)


def audit(answered: bool = True) -> dict[str, Any]:
    """An audit.json as far as the gate and the cards read it: one attribute, two groups, one of them too small."""
    sizes = {"n": 40, "n_patients": 20, "n_positive": 12, "n_negative": 28}
    well, blank = {"value": 0.9, "low": 0.81, "high": 0.95}, {"value": None, "low": None, "high": None}
    rows = [
        {"attribute": attribute, "group": group, **sizes, "metric": metric, **measured, "note": ""}
        for attribute, group, measured in (("all", "all", well), ("sex", "F", well), ("sex", "M", blank))
        for metric in ("auroc", "tpr", "fpr")
    ]
    gap = {"attribute": "sex", "metric": "auroc", **blank, "n": 40, "n_patients": 20, "n_groups": 1, "note": "few"}
    known = {"groups": rows, "gaps": [gap]} if answered else {"groups": [], "gaps": [], "why": "no label"}
    return {"label": "pneumonia", "answered": answered, **known}


def drawn_image(view: str, size: int = 96) -> np.ndarray:
    """A drawn image of a person whom no test has trained on: uint8, (size, size)."""
    return next(shot.draw(size) for shot in shots(patients=60, seed=12) if shot.row["view"] == view)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """As the bytes of a PNG or JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def dicom(pixels: np.ndarray, modality: str = "DX", view: str = "PA") -> bytes:
    """As the bytes of a DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["hilum"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Modality, file.PatientID = modality, "secret-patient"
    if view:
        file.ViewPosition = view
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation = 7, 0
    file.PixelData = pixels.tobytes()
    stream = io.BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def photograph(size: int = 96) -> np.ndarray:
    """Something like a holiday picture: sky, a ridge, a sun, grass."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[0:size, 0:size] / size
    image = 200 - 60 * y
    image[y > 0.55 + 0.12 * np.sin(9 * x)] = 90
    image[(x - 0.8) ** 2 + (y - 0.15) ** 2 < 0.008] = 255
    image += (y > 0.7) * random.normal(0, 35, (size, size))
    return np.clip(image, 0, 255).astype(np.uint8)
