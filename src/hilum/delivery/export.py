"""The release: an encoder with its head as one ONNX graph, its card, golden images, limits, evidence and dossier.

encoder.onnx     image -> embedding and, with a head, probability
card.json        what it is and how well it does (hilum.delivery.card)
limits.npz       which images it answers for; absent where there were too few to say
golden/          phantom images with the answers that a server must reproduce before it serves
evidence/        scores.csv, head.json, audit.json, fairness.csv, gate.json: what the judgement found
dossier.json     the hashes of all of this and of what it rests on, chained
embeddings.mar   for TorchServe; and LABEL.mar (pneumonia.mar), if there is a head

No pixel of the dataset and no patient rides in it: the golden images are drawn.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum import __version__
from hilum.data.layouts import phantom
from hilum.data.store import Dataset, read_json, write_json
from hilum.delivery import dossier, graph, limits
from hilum.delivery.archive import archive
from hilum.delivery.card import (
    CARD,
    EMBEDDINGS,
    EVIDENCE,
    GOLDEN,
    LIMITS,
    MODEL,
    Calibration,
    HeadCard,
    LimitsCard,
    Measured,
    OperatingPoint,
    Parity,
    ReleaseCard,
    Training,
)
from hilum.delivery.predictor import EXPECTED, Predictor, infer, prepare_golden, session
from hilum.errors import CheckFailed, DatasetError, ReleaseError, UsageError
from hilum.identity import code_revision, digest_file
from hilum.judgement import stats
from hilum.judgement.probing import head as heads
from hilum.judgement.probing.head import Head
from hilum.learning import embedding
from hilum.progress import bar
from hilum.recipe import Export, digest

N_GOLDEN: Final = 4
N_PARITY: Final = 64  # images of val and test; the graph is a fixed function, more images find nothing new
MIN_HELD_OUT: Final = 20  # images of val from which the input limits are set; below, a part of train is held out
EVIDENCE_FILES: Final = ("scores.csv", "head.json", "audit.json", "fairness.csv", "gate.json")


@dataclass(frozen=True)
class Sources:
    """What a release is made of.

    Attributes:
        dataset: The dataset that the encoder was trained on.
        encoder_run: What `hilum train` wrote.
        facts: The card of the encoder run.
        recipe: The recipe's section.
        scores: What `hilum probe` wrote.
        findings: What `hilum audit` wrote.
        verdict: The folder of gate.json.
    """

    dataset: Dataset
    encoder_run: Path
    facts: dict[str, Any]
    recipe: Export
    scores: Path | None
    findings: Path | None
    verdict: Path | None

    @property
    def name(self) -> str:
        """Of the release."""
        return f"{self.facts['modality'].lower()}-{self.facts['encoder']}"

    def evidence(self) -> dict[str, Path]:
        """The files of judgement that there are, by name."""
        folders = [folder for folder in (self.scores, self.findings, self.verdict) if folder is not None]
        found = {name: folder / name for folder in folders for name in EVIDENCE_FILES if (folder / name).is_file()}
        return {name: found[name] for name in EVIDENCE_FILES if name in found}

    def rests_on(self) -> dict[str, str | None]:
        """The facts of the dossier, in the order of the way of the data."""
        weights = self.scores / heads.WEIGHTS if self.scores is not None else None
        return {
            "source_revision": self.dataset.facts.source_revision,
            "source_digest": self.dataset.facts.source_digest,
            **self.facts["run"],
            "encoder_weights": digest_file(self.encoder_run / embedding.WEIGHTS),
            "encoder_card": digest_file(self.encoder_run / embedding.CARD),
            "head_weights": digest_file(weights) if weights is not None and weights.is_file() else None,
            "export_recipe_digest": digest(self.recipe),
            "export_code_revision": code_revision(),
            **{
                f"judged_{name}": digest_file(self.evidence()[name]) if name in self.evidence() else None
                for name in EVIDENCE_FILES
            },
        }


def export_all(
    dataset: Path, candidate: Path, verdict: Path, recipe: Export, out: Path, *, serving: Path
) -> list[Path]:
    """Export the candidate of every modality, each into `out/MODALITY-ENCODER`.

    Args:
        dataset: The dataset folder.
        candidate: What the gate bundled: `MODALITY/{encoder,scores,findings}`.
        verdict: The folder of gate.json.
        recipe: The recipe's section.
        out: The folder of releases.
        serving: The folder of the TorchServe handlers.
    """
    bundles = sorted(path for path in candidate.iterdir() if (path / "encoder").is_dir()) if candidate.is_dir() else []
    if not bundles:
        raise UsageError(f"{candidate} has no candidate for release; the gate writes MODALITY/encoder and so on")
    return [
        export(
            dataset,
            bundle / "encoder",
            recipe,
            out / f"{bundle.name.lower()}-{embedding.read_card(bundle / 'encoder')['encoder']}",
            scores=bundle / "scores",
            findings=bundle / "findings",
            verdict=verdict,
            serving=serving,
        )
        for bundle in bundles
    ]


def export(
    dataset: Path,
    encoder_run: Path,
    recipe: Export,
    out: Path,
    *,
    serving: Path,
    scores: Path | None = None,
    findings: Path | None = None,
    verdict: Path | None = None,
) -> Path:
    """Write a release, whole or not at all; one that rests on the same facts is kept as it is.

    Args:
        dataset: The dataset that the encoder was trained on.
        encoder_run: What `hilum train` wrote.
        recipe: The recipe's section.
        out: The release folder.
        serving: The folder of the TorchServe handlers.
        scores: What `hilum probe` wrote; its head answers for the label. Embeddings only without it.
        findings: What `hilum audit` wrote.
        verdict: The folder of the gate's gate.json.

    Returns:
        `out`.

    Raises:
        UsageError: `out` holds something else, or the encoder is not the one that the recipe releases.
        DatasetError: The encoder or head was made from another dataset.
        CheckFailed: The gate refused, or ONNX and PyTorch differ.
    """
    sources = _sources(dataset, encoder_run, recipe, scores, findings, verdict)
    if out.exists() and _is_made(out, sources):
        return out
    head, why_none = _head(sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / GOLDEN).mkdir(parents=True)
    with bar(f"export {sources.name}", total=5, unit="step") as shown:
        module = embedding.onnx_module(encoder_run)
        metadata = {
            "name": sources.name,
            "version": recipe.version,
            "modality": sources.facts["modality"],
            "label": recipe.label if head is not None else "",
            **sources.facts["run"],
        }
        graph.write(module, sources.facts["size"], head, metadata, partial / MODEL)
        shown.update()
        parity = graph.check_parity(partial / MODEL, module, head, _parity_images(sources), recipe.parity_tolerance)
        shown.update()
        card = _card(sources, head, why_none, parity, _write_limits(sources, partial))
        write_json(partial / CARD, card.model_dump(mode="json"))
        _write_golden(partial, card)
        shown.update()
        _write_evidence(sources, partial)
        write_json(partial / dossier.DOSSIER, dossier.draw_up(partial, sources.rests_on()))
        Predictor.load(partial)
        shown.update()
        for question in card.answers:
            archive(question, [partial], serving, partial)
        shown.update()
    if out.exists():
        out.rmdir()  # empty: _is_made has seen to that
    partial.replace(out)
    return out


def _sources(
    dataset: Path, encoder_run: Path, recipe: Export, scores: Path | None, findings: Path | None, verdict: Path | None
) -> Sources:
    """Open everything, and see that it belongs together."""
    opened, facts = Dataset.open(dataset), embedding.read_card(encoder_run)
    if facts["encoder"] != recipe.encoder:
        raise UsageError(
            f"the run is of the encoder {facts['encoder']!r}, but the recipe releases {recipe.encoder!r}; "
            f"set export.encoder to {facts['encoder']}"
        )
    if facts["run"]["data_digest"] != opened.facts.digest:
        raise DatasetError("the encoder was trained on another dataset than the one named; name that one")
    criteria = read_json(verdict / "gate.json")["criteria"] if verdict is not None else []
    if failed := "; ".join(str(one["reason"]) for one in criteria if one["verdict"] == "fail"):
        raise CheckFailed(f"the gate refused this release, so it is not exported: {failed}")
    return Sources(opened, encoder_run, facts, recipe, scores, findings, verdict)


def _is_made(out: Path, sources: Sources) -> bool:
    """Whether `out` holds the release of these sources; a UsageError where it holds something else."""
    if not any(out.iterdir()):
        return False
    try:
        dossier.verify(out)
        said = dossier.facts(dossier.read(out))
    except ReleaseError as error:
        raise UsageError(f"{out} holds something that is not a whole release; name an empty or new folder") from error
    if said != {name: value or dossier.ABSENT for name, value in sources.rests_on().items()}:
        raise UsageError(f"{out} holds another release, made of other data, code or recipe; name a new folder")
    return True


def _head(sources: Sources) -> tuple[Head | None, str]:
    """The head and no reason, or no head and the reason why."""
    if sources.scores is None:
        return None, "it was exported without a head"
    said = heads.facts(sources.scores)
    if said["label"] != sources.recipe.label:
        raise UsageError(f"the head answers for {said['label']!r}, but the recipe releases {sources.recipe.label!r}")
    made_of = (said["encoder"], said["modality"], said["run"]["data_digest"])
    if made_of != (sources.facts["encoder"], sources.facts["modality"], sources.facts["run"]["data_digest"]):
        raise DatasetError(f"the head belongs to {made_of[1]} {made_of[0]} or other data, not to this encoder run")
    if not said["answered"]:
        return None, str(said["why"])
    head = Head.load(sources.scores)
    if head.weight.shape != (sources.facts["dim"],):
        raise DatasetError(
            f"the head has {len(head.weight)} weights, but the encoder {sources.facts['dim']} dimensions; probe again"
        )
    return head, ""


def _card(
    sources: Sources, head: Head | None, why_none: str, parity: Parity, limited: LimitsCard | None
) -> ReleaseCard:
    facts, data = sources.facts, sources.dataset.facts
    trained = sources.dataset.manifest.iloc[sources.dataset.rows(facts["modality"], ("train",))]
    return ReleaseCard(
        name=sources.name,
        version=sources.recipe.version,
        encoder=facts["encoder"],
        modality=facts["modality"],
        dim=facts["dim"],
        preprocessing=data.preprocessing,
        views=tuple(sorted(str(view) for view in trained["view"].dropna().unique())),
        answers=(EMBEDDINGS,) if head is None else (EMBEDDINGS, head.label),
        label=sources.recipe.label,
        head=None if head is None else _head_card(head),
        why_no_head=why_none,
        limits=limited,
        training=Training(
            layout=data.layout,
            source_revision=data.source_revision,
            data_digest=data.digest,
            n_images=len(trained),
            n_patients=int(trained["patient_id"].nunique()),
            licence=data.licence,
        ),
        parity=parity,
        golden_tolerance=sources.recipe.parity_tolerance,
        run=facts["run"],
        caution=data.caution,
        hilum_version=__version__,
    )


def _head_card(head: Head) -> HeadCard:
    said, test = head.facts, head.facts["test"]
    return HeadCard(
        label=head.label,
        auroc=_measured(test["auroc"]),
        operating_point=OperatingPoint(
            threshold=head.threshold,
            rule=f"chosen out of fold on train and val by the {said['threshold_rule']}",
            sensitivity=_measured(test["sensitivity"]),
            specificity=_measured(test["specificity"]),
        ),
        calibration=Calibration(
            method="Platt, on out-of-fold scores of train and val",
            brier=_measured(test["brier"]),
            expected_calibration_error=Measured(
                value=test["ece"], low=None, high=None, n=test["n"], note=f"bins of equal mass: {test['ece_bins']}"
            ),
        ),
        n_positive=said["train"]["n_positive"],
        n_negative=said["train"]["n"] - said["train"]["n_positive"],
        caveat="; ".join(said["caveats"]),
    )


def _measured(interval: Mapping[str, Any]) -> Measured:
    return Measured(**{key: interval[key] for key in ("value", "low", "high", "n")}, note=interval.get("note", ""))


def _parity_images(sources: Sources) -> NDArray[np.uint8]:
    """Up to N_PARITY images of val and test, evenly spread; of train where there are none."""
    modality = sources.facts["modality"]
    rows = sources.dataset.rows(modality, ("val", "test"))
    rows = rows if len(rows) else sources.dataset.rows(modality)
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), N_PARITY)).astype(int))]
    return np.ascontiguousarray(sources.dataset.images[chosen])


def _write_limits(sources: Sources, release: Path) -> LimitsCard | None:
    """Fit the input limits on train, set them on val, count false refusals on test."""
    data, modality = sources.dataset, sources.facts["modality"]
    fitted, held_out, test = (data.rows(modality, (split,)) for split in ("train", "val", "test"))
    if len(held_out) < MIN_HELD_OUT:
        # Every fourth patient in the order of appearance, so that no patient is on both sides.
        number = data.manifest["patient_id"].iloc[fitted].factorize()[0]
        fitted, held_out = fitted[number % 4 != 0], fitted[number % 4 == 0]
    if len(fitted) < limits.MIN_IMAGES or not len(held_out):
        return None
    found = limits.fit(data.images[fitted], data.images[held_out])
    found.save(release / LIMITS)
    refused = ~found.accepts(data.images[test]) if len(test) else np.zeros(0, dtype=bool)
    patients = data.manifest["patient_id"].iloc[test].factorize()[0]
    return LimitsCard(
        n_fitted=len(fitted),
        n_held_out=len(held_out),
        false_refusals=_measured(stats.proportion(refused, patients).facts()),
    )


def _write_golden(release: Path, card: ReleaseCard) -> None:
    """Drawn images, and what the graph answers to them here and now."""
    contents = phantom.golden(card.modality, N_GOLDEN)
    for number, content in enumerate(contents):
        (release / GOLDEN / f"{number:03d}.png").write_bytes(content)
    result = infer(session(release / MODEL), prepare_golden(contents, card))
    probability_B = np.zeros(0, np.float32) if result.probability_B is None else result.probability_B
    np.savez(release / GOLDEN / EXPECTED, z_BD=result.z_BD, probability_B=probability_B)


def _write_evidence(sources: Sources, release: Path) -> None:
    (release / EVIDENCE).mkdir()
    for name, path in sources.evidence().items():
        shutil.copyfile(path, release / EVIDENCE / name)
