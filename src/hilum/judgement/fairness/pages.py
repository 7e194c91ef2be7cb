"""Fairness for those who will use the answers: what was asked of each group, in plain words, with what is not known."""

import io
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")  # no display on a server; chosen before pyplot is imported

import matplotlib.pyplot as plt

from hilum.identity import Run
from hilum.judgement.fairness.groups import UNKNOWN
from hilum.page import Html, page, picture, table, tag

# How a clinician would name them, in the order of the table.
_SPOKEN: Final = {
    "auroc": "ranking (AUROC)",
    "balanced_accuracy": "balanced accuracy",
    "tpr": "caught (sensitivity)",
    "fnr": "missed",
    "fpr": "false alarms",
    "ppv": "right when positive (PPV)",
    "selection_rate": "called positive",
}
_QUESTIONS: Final = {
    "auroc": "Are patients with the finding ranked above those without equally well?",
    "equal_opportunity": "Is the finding, where present, caught equally often?",
    "equalized_odds": "Are both hits and false alarms equally frequent?",
    "demographic_parity": "Are groups called positive equally often? (They need not be, where the finding is not.)",
}
_ATTRIBUTES: Final = {"all": "everybody", "age_band": "age (years)"}
_TO: Final = "\u2060\u2013\u2060"  # an en dash that no line breaks at
_DRAWN: Final = ("auroc", "tpr", "fpr")
_INK, _SOFT, _BLUE = "#1b2430", "#5b6778", "#0072B2"


@dataclass(frozen=True)
class Subject:
    """What a page of the audit is about.

    Attributes:
        label: The finding that the head answers for.
        encoder: Name of the encoder.
        modality: XR or MR.
        caution: What a reader must know of the dataset.
        run: Who made it.
    """

    label: str
    encoder: str
    modality: str
    caution: str
    run: Run

    @property
    def spoken_modality(self) -> str:
        """The modality as people say it."""
        return {"XR": "X-ray", "MR": "MRI"}[self.modality]

    @property
    def foot(self) -> dict[str, str]:
        """What the foot of a page says of its origin."""
        return {name: str(value) for name, value in self.run.items()} | {"encoder": self.encoder}


def judged_page(subject: Subject, judged: pd.DataFrame, gaps: pd.DataFrame, threshold: float, min_group: int) -> str:
    """The page where the head answers.

    Args:
        subject: What the page is about.
        judged: fairness.table.
        gaps: fairness.gaps.
        threshold: The locked operating point, a probability.
        min_group: Patients with and without the finding that a group needs to be judged.
    """
    one_each = judged[judged["metric"] == "auroc"]
    everybody, named = one_each[one_each["attribute"] == "all"], one_each[one_each["attribute"] != "all"]
    n, n_patients = (int(everybody[name].sum()) for name in ("n", "n_patients"))
    sufficient = int(named["value"].notna().sum())
    lead = (
        f"{subject.encoder}, {subject.spoken_modality}: the same threshold ({threshold:.3g}) for everybody, on {n:,} "
        f"test images of {n_patients:,} patients. {sufficient} of {len(named)} groups have enough patients to be "
        "judged."
    )
    drawn = judged[judged["metric"].isin(_DRAWN) & judged["value"].notna()]
    figure = [
        picture(
            _forest(judged),
            "Dots are estimates, bars 95% intervals, the dashed line everybody together. Groups without a dot have too "
            "few patients.",
            f"Forest plot of {', '.join(_SPOKEN[name] for name in _DRAWN)} by group; the table below has the figures.",
        )
    ]
    return page(
        f"Fairness by group: {subject.label.replace('_', ' ')}",
        lead,
        [
            tag("h2", "Gaps between groups"),
            "The largest difference between any two groups that have enough patients. Some gap arises by chance alone: "
            "only an interval that stays clear of zero speaks of a real one, and a wide interval says that too few "
            "patients were seen to tell.",
            _gap_table(gaps),
            tag("h2", "Group by group"),
            *(figure if len(drawn) else []),
            _group_table(judged),
            tag("h2", "How to read this"),
            f"A group is judged only with at least {min_group} patients who have the finding and {min_group} who have "
            "not. Where it says 'insufficient data', nothing is known: it is neither a pass nor a fault.",
            "Intervals come from drawing patients again and again, each with all their images. "
            "'Missed' is the share of images with the finding that were called negative; 'false alarms' the share "
            "of images without it that were called positive. The label itself may be less reliable in one group "
            "than in another; no figure here can show that.",
        ],
        subject.foot,
        subject.caution,
    )


def sizes_page(subject: Subject, sizes: pd.DataFrame, why: str) -> str:
    """The page where the head does not answer: how large the groups are, and why there is nothing more.

    Args:
        subject: What the page is about.
        sizes: groups.sizes of the test split.
        why: Why the head does not answer.
    """
    rows = [(_attribute(row.attribute), row.group, f"{row.n:,}", f"{row.n_patients:,}") for row in sizes.itertuples()]
    return page(
        f"Fairness by group: {subject.label.replace('_', ' ')}",
        f"{subject.encoder}, {subject.spoken_modality}: no decision is made, so none can be judged by group: {why}.",
        [
            tag("h2", "Who is in the test split"),
            table(["attribute", "group", "images", "patients"], rows, numeric=["images", "patients"]),
        ],
        subject.foot,
        subject.caution,
    )


def _gap_table(gaps: pd.DataFrame) -> Html:
    rows = []
    for attribute in dict.fromkeys(gaps["attribute"]):
        known = gaps[gaps["attribute"] == attribute].set_index("metric")
        for metric, question in _QUESTIONS.items():
            row = known.loc[metric]
            value = _cell(row) if pd.notna(row["value"]) else tag("span", "insufficient data", "doubt")
            note = row["note"] if pd.notna(row["value"]) else f"{row['n_groups']} group(s) with enough patients"
            rows.append((_attribute(attribute), question, value, _plain(str(note))))
    return table(["between groups of", "question", "gap (95% interval)", "where"], rows)


def _group_table(judged: pd.DataFrame) -> Html:
    rows = []
    for (attribute, group), members in judged.groupby(["attribute", "group"], sort=False):
        known = members.set_index("metric")
        first = known.iloc[0]
        name = "" if attribute == "all" else group
        counts = (f"{first['n']:,}", f"{first['n_patients']:,}", f"{first['n_positive']:,}")
        if str(first["note"]).startswith("insufficient data"):
            cells: list[object] = [tag("span", "insufficient data", "doubt"), *[""] * (len(_SPOKEN) - 1)]
        else:
            cells = [_cell(known.loc[metric]) for metric in _SPOKEN]
        rows.append((_attribute(str(attribute)), name, *counts, *cells))
    columns = ["attribute", "group", "images", "patients", "images with finding", *_SPOKEN.values()]
    return table(columns, rows, numeric=columns[2:5])


def _cell(row: pd.Series) -> str:
    """`0.81 (0.74–0.88)`, the interval kept on one line; what is missing is said."""
    if pd.isna(row["value"]):
        return "undefined"
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return f"{row['value']:.2f} (no interval)"
    return f"{row['value']:.2f} ({row['low']:.2f}{_TO}{row['high']:.2f})"


def _forest(judged: pd.DataFrame) -> bytes:
    """One panel per metric of _DRAWN, one line per group, as PNG."""
    order = judged[["attribute", "group"]].drop_duplicates().itertuples(index=False)
    lines = [(str(attribute), str(group)) for attribute, group in order if group != UNKNOWN]
    labels = [_attribute(a) if a == "all" else f"{_attribute(a)}: {g}" for a, g in lines]
    figure, grid = plt.subplots(
        1, len(_DRAWN), figsize=(10.5, 0.34 * len(lines) + 1.0), sharey=True, layout="constrained", squeeze=False
    )
    at = judged.set_index(["attribute", "group", "metric"])
    for axes, metric in zip(grid[0], _DRAWN, strict=True):
        whole = at.loc[("all", "all", metric), "value"]
        if pd.notna(whole):
            axes.axvline(whole, color=_SOFT, lw=1, ls=(0, (4, 3)), zorder=0)
        for place, line in enumerate(lines):
            _draw(axes, place, at.loc[(*line, metric)])
        axes.set(xlim=(-0.03, 1.03), yticks=range(len(lines)), yticklabels=labels, ylim=(len(lines) - 0.5, -0.5))
        axes.set_title(_SPOKEN[metric], loc="left", fontsize=10, color=_INK)
        axes.tick_params(length=0, labelsize=9, labelcolor=_INK)
        axes.grid(axis="x", color="#e6eaf0", lw=0.8)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)
    return stream.getvalue()


def _draw(axes: Any, place: int, row: pd.Series) -> None:
    if pd.isna(row["value"]):
        axes.text(0.02, place, "insufficient data", va="center", fontsize=8, color=_SOFT, style="italic")
        return
    if not np.isnan([row["low"], row["high"]]).any():
        axes.plot([row["low"], row["high"]], [place, place], color=_BLUE, lw=2.2, solid_capstyle="round")
    axes.plot([row["value"]], [place], "o", color=_BLUE, ms=6.5, mec="white", mew=1)


def _attribute(name: str) -> str:
    return _ATTRIBUTES.get(name, name.replace("age_band", "age").replace("+", " and ").replace("_", " "))


def _plain(note: str) -> str:
    """Names of metrics in a note as people say them."""
    for metric, spoken in _SPOKEN.items():
        note = note.replace(f" {metric}:", f" {spoken}:")
    return note
