"""The release: an encoder with its head as one ONNX graph, its card, golden images, limits, evidence and dossier.

encoder.onnx     image -> embedding and, with a head, probability
card.json        what it is and how well it does (hilum.delivery.card)
limits.npz       which images it answers for; absent where there were too few to say
cases.npz        training embeddings under opaque numbers: nearest cases, out-of-distribution score; absent likewise
golden/          phantom images with the answers that a server must reproduce before it serves
evidence/        what the judgement found (hilum.delivery.releasing.sources.JUDGED), and what the dataset is made of
MODEL_CARD.md    the model and its dataset for people, from the files above alone (hilum.delivery.cards)
DATASET_CARD.md
dossier.json     the hashes of all of this and of what it rests on, chained
embeddings.mar   for TorchServe; and LABEL.mar (pneumonia.mar), if there is a head

No pixel of the dataset and no patient rides in it: the golden images are drawn.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum import __version__
from hilum.data.layouts import phantom
from hilum.data.store import write_json
from hilum.delivery import dossier, limits
from hilum.delivery.answering.covariates import unit_of
from hilum.delivery.card import (
    CARD,
    EMBEDDINGS,
    EVIDENCE,
    GOLDEN,
    LIMITS,
    MODEL,
    Calibration,
    CasesCard,
    CovariateCard,
    EngineCard,
    FusionCard,
    HeadCard,
    LimitsCard,
    Measured,
    Mitigated,
    OperatingPoint,
    Parity,
    ReleaseCard,
    ReliabilityBin,
    Training,
)
from hilum.delivery.cards import writing
from hilum.delivery.engines.runtime import Session
from hilum.delivery.machine import usable_cores
from hilum.delivery.predictor import EXPECTED, Predictor, infer, prepare_golden
from hilum.delivery.releasing import cases, engines, fusing, graph
from hilum.delivery.releasing.archive import archive
from hilum.delivery.releasing.sources import Judged, Sources
from hilum.errors import ReleaseError, UsageError
from hilum.judgement import stats
from hilum.judgement.fusion.head import FusedHead
from hilum.judgement.probing.head import Head
from hilum.learning import embedding
from hilum.progress import bar
from hilum.recipe import Export

N_GOLDEN: Final = 4
N_PARITY: Final = 64  # images of val and test; the graph is a fixed function, more images find nothing new
MIN_HELD_OUT: Final = 20  # images of val from which the input limits are set; below, a part of train is held out


def export_all(
    dataset: Path,
    candidate: Path,
    verdict: Path,
    recipe: Export,
    out: Path,
    *,
    serving: Path,
    validation: Path | None = None,
) -> list[Path]:
    """Export the candidate of every modality, each into `out/MODALITY-ENCODER`.

    Args:
        dataset: The dataset folder.
        candidate: What the gate bundled: `MODALITY/{encoder,scores,findings}`.
        verdict: The folder of the gate's verdict.json.
        recipe: The recipe's section.
        out: The folder of releases.
        serving: The folder of the TorchServe handlers.
        validation: What `hilum validate` wrote.
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
            serving=serving,
            judged=Judged(bundle / "scores", bundle / "findings", verdict=verdict, validation=validation),
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
    judged: Judged,
) -> Path:
    """Write a release, whole or not at all; one that rests on the same facts is kept as it is.

    Args:
        dataset: The dataset that the encoder was trained on.
        encoder_run: What `hilum train` wrote.
        recipe: The recipe's section.
        out: The release folder.
        serving: The folder of the TorchServe handlers.
        judged: The folders of judgement, the gate's verdict among them, and the override.

    Returns:
        `out`.

    Raises:
        UsageError: `out` holds something else, the encoder is not the one that the recipe releases, or there is neither
            a verdict nor an override.
        DatasetError: The encoder or head was made from another dataset.
        CheckFailed: The gate did not let it pass, its verdict is on other evidence, or ONNX and PyTorch differ.
    """
    sources = Sources.open(dataset, encoder_run, recipe, judged)
    if out.exists() and _is_made(out, sources):
        return out
    head, why_none = sources.head()
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
        rows = _parity_rows(sources)
        parity = graph.check_parity(
            partial / MODEL,
            module,
            head,
            np.ascontiguousarray(sources.dataset.images[rows]),
            recipe.parity_tolerance,
            fusing.covariates(head, sources.dataset.manifest.iloc[rows]) if isinstance(head, FusedHead) else None,
        )
        shown.update()
        kept = cases.write(sources, partial, usable_cores())
        golden_GSS = prepare_golden(
            phantom.golden(sources.facts["modality"], N_GOLDEN), sources.dataset.facts.preprocessing
        )
        others = engines.tried(sources, head, partial, golden_GSS, usable_cores())
        card = _card(sources, head, why_none, parity, _write_limits(sources, partial), kept, others)
        write_json(partial / CARD, card.model_dump(mode="json"))
        _write_golden(partial, card, head)
        shown.update()
        (partial / EVIDENCE).mkdir()
        for name, content in sources.evidence.items():
            (partial / EVIDENCE / name).write_bytes(content)
        if others:
            write_json(partial / EVIDENCE / engines.REPORT, engines.report(sources, others))
        writing.write(partial)
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


def _card(
    sources: Sources,
    head: Head | FusedHead | None,
    why_none: str,
    parity: Parity,
    limited: LimitsCard | None,
    kept: CasesCard | None,
    others: tuple[EngineCard, ...],
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
        cases=kept,
        training=Training(
            layout=data.layout,
            source_revision=data.source_revision,
            data_digest=data.digest,
            n_images=len(trained),
            n_patients=int(trained["patient_id"].nunique()),
            licence=data.licence,
        ),
        parity=parity,
        engines=others,
        gate=sources.gate,
        golden_tolerance=sources.recipe.parity_tolerance,
        run=facts["run"],
        caution=data.caution,
        hilum_version=__version__,
    )


def _head_card(head: Head | FusedHead) -> HeadCard:
    said, test = head.facts, head.facts["test"]
    return HeadCard(
        label=head.label,
        auroc=_measured(test["auroc"]),
        operating_point=OperatingPoint(
            threshold=head.threshold,
            rule=f"chosen {said.get('threshold_chosen_on', 'out of fold on train and val')} by the "
            f"{said['threshold_rule']}",
            sensitivity=_measured(test["sensitivity"]),
            specificity=_measured(test["specificity"]),
        ),
        calibration=Calibration(
            method=f"Platt, on {said.get('calibrated_on', 'out-of-fold scores of train and val')}",
            brier=_measured(test["brier"]),
            expected_calibration_error=_calibration_error(test),
        ),
        reliability=_reliability(test),
        prevalence=_measured(test["prevalence"]) if "prevalence" in test else None,
        n_positive=said["train"]["n_positive"],
        n_negative=said["train"]["n"] - said["train"]["n_positive"],
        mitigation=Mitigated.of(said),
        fusion=_fusion_card(said["fusion"]) if isinstance(head, FusedHead) else None,
        caveat="; ".join(said["caveats"]),
    )


def _fusion_card(said: Mapping[str, Any]) -> FusionCard:
    without = said["without"]
    return FusionCard(
        kind=said["kind"],
        covariates=tuple(CovariateCard(**one, unit=unit_of(one["name"])) for one in said["covariates"]),
        auroc=_measured(without["auroc"]),
        sensitivity=_measured(without["sensitivity"]),
        specificity=_measured(without["specificity"]),
        brier=_measured(without["brier"]),
        expected_calibration_error=_calibration_error(without),
        reliability=_reliability(without),
    )


def _calibration_error(test: Mapping[str, Any]) -> Measured:
    return Measured(value=test["ece"], low=None, high=None, n=test["n"], note=f"bins of equal mass: {test['ece_bins']}")


def _reliability(test: Mapping[str, Any]) -> tuple[ReliabilityBin, ...]:
    return tuple(
        ReliabilityBin(
            low=one["low"], high=one["high"], n_positive=one["n_positive"], observed=_measured(one["observed"])
        )
        for one in test.get("reliability", ())
    )


def _measured(interval: Mapping[str, Any]) -> Measured:
    return Measured(**{key: interval[key] for key in ("value", "low", "high", "n")}, note=interval.get("note", ""))


def _parity_rows(sources: Sources) -> NDArray[np.int64]:
    """Rows of up to N_PARITY images of val and test, evenly spread; of train where there are none."""
    modality = sources.facts["modality"]
    rows = sources.dataset.rows(modality, ("val", "test"))
    rows = rows if len(rows) else sources.dataset.rows(modality)
    chosen: NDArray[np.int64] = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), N_PARITY)).astype(int))]
    return chosen


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


def _write_golden(release: Path, card: ReleaseCard, head: Head | FusedHead | None) -> None:
    """Drawn images, and what the graph answers to them here and now."""
    contents = phantom.golden(card.modality, N_GOLDEN)
    for number, content in enumerate(contents):
        (release / GOLDEN / f"{number:03d}.png").write_bytes(content)
    images_BSS, loaded = prepare_golden(contents, card.preprocessing), Session(release / MODEL)
    result = infer(loaded, images_BSS)
    kept: dict[str, Any] = {
        "z_BD": result.z_BD,
        "probability_B": np.zeros(0, np.float32) if result.probability_B is None else result.probability_B,
    }
    if isinstance(head, FusedHead):
        kept["covariates_BC"] = fusing.golden(head, len(contents))
        fused_B = infer(loaded, images_BSS, kept["covariates_BC"]).probability_B
        assert fused_B is not None, "a graph that takes covariates gives probabilities"
        kept["fused_B"] = fused_B
    np.savez(release / GOLDEN / EXPECTED, **kept)
