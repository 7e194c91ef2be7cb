"""The fusion ladder side by side: what covariates add to the image, with the interval of a paired comparison.

fusion.csv            one row per mode, fusion, part of the test rows and metric: value, bounds, n, gain over image_only
fusion.json           trees, stacking, calibration, who was measured, the comparison of gated with concatenation
predictions.parquet   one row per test image and fusion, as a probe's
fusion.md, .html      the same for reading (hilum.judgement.fusion.pages)

Legend: N test rows, V val rows, C covariates, R bootstrap replicates. What is trained by gradients is read from folders
that hilum.learning.finetune wrote; trees and stacking are fitted here. A rung's probabilities are calibrated on val,
and test is only scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum import progress
from hilum.data import parquet
from hilum.data.clinical import Clinical, chosen
from hilum.data.store import Dataset, read_json, write_json
from hilum.errors import DatasetError, UsageError
from hilum.identity import Run, code_revision
from hilum.judgement import stats
from hilum.judgement.fairness import groups
from hilum.judgement.fusion import pages as fusion_page
from hilum.judgement.fusion.tabular import Floats, fit_stack, fit_trees
from hilum.judgement.leaderboard import paired
from hilum.judgement.probing.calibration import platt, sigmoid
from hilum.recipe import digest, read
from hilum.recipe.finetune import Finetune

CSV: Final = "fusion.csv"
FACTS: Final = "fusion.json"
PREDICTIONS: Final = "predictions.parquet"  # of a fine-tuning too
VALIDATION: Final = "validation.parquet"
TEST: Final = "test.json"
LADDER: Final = ("image_only", "tabular_only", "concatenation", "stacking", "gated")
BY_GRADIENTS: Final = ("image_only", "concatenation", "gated")
PARTS: Final = ("all", "measured", "not measured")  # of the test rows: with any covariate, with none
MEASURED_BY: Final = ("sex", "site")


@dataclass(frozen=True)
class Rung:
    """The answers of one fusion.

    Attributes:
        mode: Of the image's part; empty for `tabular_only`, which has none.
        fusion: One of LADDER.
        val: Its val rows as a probe's predictions: `score` is a logit.
        test: Likewise.
        probability_N: Of the test rows, calibrated on val.
        platt: Slope and intercept of the calibration.
        trials: How many were tried; which was chosen, in words.
    """

    mode: str
    fusion: str
    val: pd.DataFrame
    test: pd.DataFrame
    probability_N: Floats
    platt: tuple[float, float]
    trials: str


def judge(folder: Path) -> dict[str, stats.Interval]:
    """What one fine-tuning is worth on its test rows; writes `test.json` into its folder.

    Raises:
        DatasetError: `folder` is no fine-tuning.
    """
    card, section = _card(folder), read(folder / "recipe.json", Finetune)
    rung = _tuned(folder, card, section)
    worth = _worth(rung, np.ones(len(rung.test), dtype=bool), section)
    write_json(
        folder / TEST,
        {
            **{key: card[key] for key in ("label", "mode", "fusion", "encoder", "modality", "run", "caution")},
            "n_positive": int(rung.test["truth"].sum()),
            **{metric: interval.facts() for metric, interval in worth.items()},
            "calibration": {"a": rung.platt[0], "b": rung.platt[1], "on": "val" if section.calibrate else "nothing"},
        },
    )
    return worth


def run(dataset: Path, tuned: Path, section: Finetune, out: Path) -> pd.DataFrame:
    """Put the fusions of a recipe side by side.

    Args:
        dataset: The dataset folder.
        tuned: `tuned/MODE/FUSION` are fine-tunings of one encoder (hilum.learning.finetune.ladder).
        section: Modes, fusions and covariates; `image_only` is always among them.
        out: Folder to write; may be `tuned`.

    Returns:
        What `fusion.csv` holds.

    Raises:
        DatasetError: A fine-tuning is missing, or of another dataset; or there are no covariates to fuse with.
        UsageError: The recipe names no mode, or fine-tunings of other labels or encoders lie there.
    """
    opened = Dataset.open(dataset)
    names = [fusion for fusion in LADDER if fusion in ("image_only", *section.fusions)]
    if not section.modes:
        raise UsageError("the recipe's finetune.modes is empty: there is nothing to compare; name linear or end_to_end")
    folders = [tuned / mode / fusion for mode in section.modes for fusion in names if fusion in BY_GRADIENTS]
    cards = [_card(folder) for folder in folders]
    _comparable(cards, opened, section)
    rungs = [_tuned(folder, card, section) for folder, card in zip(folders, cards, strict=True)]
    facts: dict[str, Any] = {"trees": None, "stacking": {}}
    measured_N: NDArray[np.bool_] | None = None
    if set(names) - {"image_only"}:
        more, facts, measured_N = _more(opened, cards[0]["modality"], rungs, names, section)
        rungs += more
    place = {str(mode): number for number, mode in enumerate(section.modes)}
    rungs.sort(key=lambda rung: (place.get(rung.mode, 0), LADDER.index(rung.fusion)))
    parts = {"all": np.ones(len(rungs[0].test), dtype=bool)}
    if measured_N is not None:
        parts |= {"measured": measured_N, "not measured": ~measured_N}
    table = pd.DataFrame(
        [
            row
            for rung in progress.track(rungs, "compare fusions", unit="fusion")
            for part, rows_N in parts.items()
            for row in _rows(rung, rungs, part, rows_N, section)
        ]
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / FACTS).unlink(missing_ok=True)  # written last: a folder that has it is whole
    partial = out / f"{CSV}.partial"
    table.to_csv(partial, index=False)
    partial.replace(out / CSV)
    partial = out / f"{PREDICTIONS}.partial"
    parquet.write(pd.concat([rung.test for rung in rungs], ignore_index=True), partial)
    partial.replace(out / PREDICTIONS)
    said = {
        "answered": True,
        **{key: cards[0][key] for key in ("label", "encoder", "modality", "encoder_run", "caution")},
        "run": Run(code_revision=code_revision(), data_digest=opened.facts.digest, recipe_digest=digest(section)),
        "calibration": "Platt's method on val" if section.calibrate else "none: the logit's own probability",
        "trials": {f"{rung.mode} {rung.fusion}".strip(): rung.trials for rung in rungs},
        **facts,
        "gated_over_concatenation": _between(rungs, "gated", "concatenation", section),
    }
    fusion_page.write(table, said, out)
    write_json(out / FACTS, said)
    return table


def refused(out: Path, label: str, why: str) -> str:
    """Write `fusion.json` of a comparison that the data do not allow; returns the sentence that says so."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FACTS, {"answered": False, "label": label, "why": why})
    return f"No fine-tuning for {label}: {why}.\n"


def _card(folder: Path) -> dict[str, Any]:
    path = folder / "card.json"
    if not path.is_file():
        raise DatasetError(f"{folder} is no finished fine-tuning: it has no card.json; `hilum finetune` writes one")
    card: dict[str, Any] = read_json(path)
    if "fusion" not in card:
        raise DatasetError(f"{folder} is an encoder run, no fine-tuning; `hilum finetune` writes one")
    return card


def _comparable(cards: Sequence[dict[str, Any]], dataset: Dataset, section: Finetune) -> None:
    for card in cards:
        if card["run"]["data_digest"] != dataset.facts.digest:
            raise DatasetError("these fine-tunings were made from another dataset; fine-tune on this one first")
        if card["label"] != section.label:
            raise UsageError(f"these fine-tunings answer {card['label']}, not {section.label}")
    if len({card["encoder_weights"] for card in cards}) > 1:
        raise UsageError("these fine-tunings are of several encoders; a ladder compares fusions of one")


def _tuned(folder: Path, card: dict[str, Any], section: Finetune) -> Rung:
    val, test = parquet.read(folder / VALIDATION), parquet.read(folder / PREDICTIONS)
    tried = f"{len(card['trials'])} trials, learning rate {card['learning_rate']:g}, epoch {card['epochs']}"
    return _calibrated(card["mode"], card["fusion"], val, test, section, tried)


def _calibrated(mode: str, fusion: str, val: pd.DataFrame, test: pd.DataFrame, section: Finetune, trials: str) -> Rung:
    a, b = platt(val["score"].to_numpy(), val["truth"].to_numpy()) if section.calibrate else (1.0, 0.0)
    return Rung(mode, fusion, val, test, sigmoid(a * test["score"].to_numpy() + b), (a, b), trials)


def _more(
    dataset: Dataset, modality: str, tuned: Sequence[Rung], names: Sequence[str], section: Finetune
) -> tuple[list[Rung], dict[str, Any], NDArray[np.bool_]]:
    """The rungs that are fitted here, facts about them and about who was measured, and which test rows were."""
    rows = dataset.rows(modality)
    table = dataset.manifest.iloc[rows]
    y_N = dataset.labels()[section.label].to_numpy(dtype=float)[rows]
    patients = pd.factorize(table["patient_id"], sort=True)[0]
    train = np.isfinite(y_N) & (table["split"] == "train").to_numpy()
    wanted = chosen(section.covariates, dataset.facts.covariates)
    clinical = Clinical.fit(table.loc[train, list(wanted)], wanted)
    cut_NC = clinical.cut(table[list(clinical.names)])
    place = pd.Series(np.arange(len(rows)), index=rows)

    def of(frame: pd.DataFrame) -> NDArray[np.int64]:
        return np.asarray(place.loc[frame["row"]])

    val, test = tuned[0].val, tuned[0].test
    trees = fit_trees(cut_NC[train], y_N[train], patients[train], section.seed)
    # What the gaps alone say: who is measured is not chance, and a gain may be of habits rather than of values.
    gaps = fit_trees(np.isnan(cut_NC[train]).astype(float), y_N[train], patients[train], section.seed)
    tried = f"{len(trees.log_losses)} settings, {_words(trees.setting)}"
    plain = [frame.assign(kernel="tabular_only", score=trees.logits(cut_NC[of(frame)])) for frame in (val, test)]
    tabular = _calibrated("", "tabular_only", plain[0], plain[1], section, tried)
    found = [tabular] if "tabular_only" in names else []
    stacking = {}
    for image in [rung for rung in tuned if rung.fusion == "image_only" and "stacking" in names]:
        both = [
            np.stack([one["score"].to_numpy(), other["score"].to_numpy()], axis=1)
            for one, other in ((image.val, tabular.val), (image.test, tabular.test))
        ]
        stack = fit_stack(both[0], val["truth"].to_numpy(), val["patient"].to_numpy(), section.seed)
        stacking[image.mode] = {"image": stack.weight_2[0], "tabular": stack.weight_2[1], "bias": stack.bias}
        stacked = [
            frame.assign(kernel=f"{image.mode}_stacking", score=stack.logits(logits))
            for frame, logits in ((image.val, both[0]), (image.test, both[1]))
        ]
        tried = f"penalty {stack.penalty:g}, weights fitted on val"
        found.append(_calibrated(image.mode, "stacking", stacked[0], stacked[1], section, tried))
    measured: NDArray[np.bool_] = np.any(np.isfinite(cut_NC), axis=1)
    missing_only = test.assign(score=gaps.logits(np.isnan(cut_NC[of(test)]).astype(float)))
    facts = {
        "trees": {"covariates": list(clinical.names), "left_out": clinical.left_out, "setting": trees.setting},
        "stacking": stacking,
        "measured": _who(table, y_N, measured, section.label),
        "missingness_alone_auroc": _auroc(missing_only, section).facts(),
    }
    return found, facts, measured[of(test)]


def _who(table: pd.DataFrame, y_N: Floats, measured: NDArray[np.bool_], label: str) -> list[dict[str, Any]]:
    """Share of rows with any covariate, by the label and by groups of the test split."""
    test = (table["split"] == "test").to_numpy()
    levels = groups.attributes(table, MEASURED_BY)
    levels.insert(0, label, np.where(np.isnan(y_N), groups.UNKNOWN, np.where(y_N == 1, "present", "absent")))
    return [
        {"attribute": name, "group": group, **stats.proportion(measured[rows], table["patient_id"][rows]).facts()}
        for name in levels
        for group in sorted(levels.loc[test, name].unique())
        if (rows := test & (levels[name] == group).to_numpy()).any()
    ]


def _rows(
    rung: Rung, rungs: Sequence[Rung], part: str, rows_N: NDArray[np.bool_], section: Finetune
) -> list[dict[str, Any]]:
    test = rung.test[rows_N]
    base = next(one for one in rungs if one.fusion == "image_only" and one.mode == (rung.mode or section.modes[0]))
    gain = stats.undefined("")
    if rung is not base and not (short := _short(test, section)):
        gain = paired.gain(test, base.test[rows_N], "binary", "auroc")
    elif rung is not base:
        gain = stats.undefined(short)
    return [
        {
            "mode": rung.mode or "none",
            "fusion": rung.fusion,
            "rows": part,
            "metric": metric,
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "n": interval.n,
            "n_patients": interval.n_patients,
            "n_positive": int(test["truth"].sum()),
            "gain": gain.value if metric == "auroc" else np.nan,
            "gain_low": gain.low if metric == "auroc" else np.nan,
            "gain_high": gain.high if metric == "auroc" else np.nan,
            "note": interval.note,
        }
        for metric, interval in _worth(rung, rows_N, section).items()
    ]


def _worth(rung: Rung, rows_N: NDArray[np.bool_], section: Finetune) -> dict[str, stats.Interval]:
    test, probability_N = rung.test[rows_N], rung.probability_N[rows_N]
    truth_N, patients = test["truth"].to_numpy(), test["patient"].to_numpy()
    short = _short(test, section)
    if short:
        nothing = stats.undefined(short, len(test), len(np.unique(patients)))
        return dict.fromkeys(("auroc", "auprc", "brier"), nothing)
    error_N = (probability_N - truth_N) ** 2
    boot = (patients, section.bootstrap, section.seed)
    return {
        "auroc": _auroc(test, section),
        "auprc": stats.patient_bootstrap(stats.weighted_auprc, *boot, truth_N, test["score"].to_numpy()),
        "brier": stats.patient_bootstrap(stats.weighted_mean, *boot, error_N),
    }


def _auroc(test: pd.DataFrame, section: Finetune) -> stats.Interval:
    truth_N, score_N, patients = (test[name].to_numpy() for name in ("truth", "score", "patient"))
    if short := _short(test, section):
        return stats.undefined(short, len(test), len(np.unique(patients)))
    return stats.patient_bootstrap(stats.weighted_auroc, patients, section.bootstrap, section.seed, truth_N, score_N)


def _short(test: pd.DataFrame, section: Finetune) -> str:
    """Why these rows are too few to score; empty where they are not."""
    rarer = min(test.loc[test["truth"] == value, "patient"].nunique() for value in (0, 1))
    if rarer >= section.min_patients:
        return ""
    return f"insufficient data: patients of the rarer class: {rarer}, needed: {section.min_patients}"


def _between(rungs: Sequence[Rung], ours: str, theirs: str, section: Finetune) -> dict[str, Any]:
    """What one fusion's AUROC gains over another's, by mode."""
    found: dict[str, Any] = {}
    for mode in section.modes:
        pair = {rung.fusion: rung.test for rung in rungs if rung.mode == mode}
        if ours in pair and theirs in pair:
            short = _short(pair[ours], section)
            gain = stats.undefined(short) if short else paired.gain(pair[ours], pair[theirs], "binary", "auroc")
            found[mode] = gain.facts()
    return found


def _words(setting: dict[str, float | int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in setting.items())
