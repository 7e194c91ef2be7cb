"""Fairness for those who will use the answers: what was asked of each group, in plain words, with what is not known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from hilum.identity import Run
from hilum.judgement.fairness import forest, page_tables
from hilum.judgement.fairness.forest import FOUND, Picture
from hilum.judgement.fairness.gaps import NO_FINDING
from hilum.judgement.fairness.page_tables import SCORES, attribute_name, cell
from hilum.judgement.fairness.tables import ALL, Judged
from hilum.page import Html, page, picture, table, tag

PICTURES: Final = ("fairness_groups", "fairness_gaps")
DRAWN_GAPS: Final = {
    "auroc": "AUROC",
    "equal_opportunity": "equal opportunity",
    "equalized_odds": "equalized odds",
    "demographic_parity": "demographic parity",
}


@dataclass(frozen=True)
class Subject:
    """What a page of the audit is about.

    Attributes:
        label: The finding that the head answers for.
        encoder: Name of the encoder.
        modality: XR or MR.
        caution: What a reader must know of the dataset.
        run: Who made it.
        mitigation: What the head was treated with (`mitigation` of its `head.json`); empty where with nothing.
    """

    label: str
    encoder: str
    modality: str
    caution: str
    run: Run
    mitigation: Mapping[str, Any] | None = None

    @property
    def spoken_modality(self) -> str:
        """The modality as people say it."""
        return {"XR": "X-ray", "MR": "MRI"}[self.modality]

    @property
    def foot(self) -> dict[str, str]:
        """What the foot of a page says of its origin."""
        return {name: str(value) for name, value in self.run.items()} | {"encoder": self.encoder}

    @property
    def treated(self) -> str:
        """Whether a mitigation was applied, in a sentence."""
        if not self.mitigation:
            return "No mitigation was applied to these answers."
        method, attribute = (str(self.mitigation[name]).replace("_", " ") for name in ("method", "attribute"))
        return f"These answers are of a head that was treated: {method}, by {attribute}."


def panels(label: str) -> dict[str, str]:
    """What is drawn of each group, and its title."""
    names = ("auroc", "tpr", "underdiagnosis" if label == NO_FINDING else "fpr")
    return {name: (page_tables.calls(label) | SCORES)[name] for name in names}


def pictures(judged: pd.DataFrame, gaps: pd.DataFrame, label: str) -> dict[str, Picture]:
    """The forest plots of `fairness_groups` and `fairness_gaps`, as far as there is something to draw."""
    spoken = {str(name): attribute_name(str(name)) for name in (*judged["attribute"], *gaps["attribute"])}
    drawn = (forest.of_groups(judged, panels(label), spoken), forest.of_gaps(gaps, DRAWN_GAPS, spoken))
    return {name: one for name, one in zip(PICTURES, drawn, strict=True) if one}


def judged_page(
    subject: Subject,
    judged: pd.DataFrame,
    gaps: pd.DataFrame,
    threshold: float,
    min_group: int,
    drawn: Mapping[str, Picture] | None = None,
    regressions: Mapping[str, Judged] | None = None,
) -> str:
    """The page where the head answers.

    Args:
        subject: What the page is about.
        judged: Groups of `tables.judge`.
        gaps: Gaps of the same.
        threshold: The locked operating point, a probability.
        min_group: Patients with and without the finding that a group needs to be judged.
        drawn: `pictures` of the same, where they are drawn already.
        regressions: What `regressions.judge` found, by task.
    """
    drawn = pictures(judged, gaps, subject.label) if drawn is None else drawn
    one_each = judged[judged["metric"] == "auroc"]
    everybody, named = one_each[one_each["attribute"] == ALL], one_each[one_each["attribute"] != ALL]
    n, n_patients = (int(everybody[name].sum()) for name in ("n", "n_patients"))
    sufficient = int(named["value"].notna().sum())
    lead = (
        f"{subject.encoder}, {subject.spoken_modality}: the same threshold ({threshold:.3g}) for everybody, on {n:,} "
        f"test images of {n_patients:,} patients. {sufficient} of {len(named)} groups have enough patients to be "
        "judged."
    )
    return page(
        f"Fairness by group: {subject.label.replace('_', ' ')}",
        lead,
        [
            subject.treated,
            tag("h2", "What stands out"),
            *_found(gaps, subject.label),
            tag("h2", "Gaps between groups"),
            "The largest difference between any two groups that have enough patients, and the least ratio. Chance "
            "alone parts groups, and the more so the more there are: the intervals allow for it, so that one which "
            "stays clear of zero speaks of a gap. A wide interval says that too few patients were seen to tell. 'p' is "
            "corrected for every gap on this page (Holm): below 0.05, a gap as large is hardly chance.",
            *_picture(
                drawn.get("fairness_gaps"),
                "Dots are estimates, bars 95% intervals. Orange diamonds are gaps that remain after correction.",
                f"Forest plot of gaps by attribute: {', '.join(DRAWN_GAPS.values())}; the table below has the figures.",
            ),
            page_tables.gap_table(gaps, subject.label),
            page_tables.worst(gaps, subject.label),
            tag("h2", "Group by group"),
            *_picture(
                drawn.get("fairness_groups"),
                "Dots are estimates, bars 95% intervals, the dashed line everybody together.",
                f"Forest plot of {', '.join(panels(subject.label).values())} by group; figures are below.",
            ),
            tag("h2", "Calls at the threshold"),
            page_tables.group_table(judged, page_tables.calls(subject.label)),
            tag("h2", "Scores behind them"),
            page_tables.group_table(judged, SCORES),
            *page_tables.too_small(judged, gaps),
            *page_tables.regressions(regressions or {}),
            tag("h2", "How to read this"),
            f"A group is judged only with at least {min_group} patients who have the finding and {min_group} who have "
            "not. Where it says 'insufficient data', nothing is known: it is neither a pass nor a fault.",
            _underdiagnosis(subject.label),
            "Average precision and PPV depend on how frequent the finding is in a group, and so differ between groups "
            "that are served alike. The calibration error of few images is above zero by chance alone: beside it "
            "stands what a perfectly calibrated score would show on the same images, on average.",
            "Intervals allow for patients with several images. The label itself may be less reliable in one group "
            "than in another; no figure here can show that.",
        ],
        subject.foot,
        subject.caution,
    )


def sizes_page(subject: Subject, sizes: pd.DataFrame, why: str, regressions: Mapping[str, Judged] | None = None) -> str:
    """The page where the head does not answer: how large the groups are, and why there is nothing more.

    Args:
        subject: What the page is about.
        sizes: groups.sizes of the test split.
        why: Why the head does not answer.
        regressions: What `regressions.judge` found, by task.
    """
    rows = [
        (attribute_name(row.attribute), row.group, f"{row.n:,}", f"{row.n_patients:,}") for row in sizes.itertuples()
    ]
    return page(
        f"Fairness by group: {subject.label.replace('_', ' ')}",
        f"{subject.encoder}, {subject.spoken_modality}: no decision is made, so none can be judged by group: {why}.",
        [
            tag("h2", "Who is in the test split"),
            table(["attribute", "group", "images", "patients"], rows, numeric=["images", "patients"]),
            *page_tables.regressions(regressions or {}),
        ],
        subject.foot,
        subject.caution,
    )


def _underdiagnosis(label: str) -> str:
    if label == NO_FINDING:
        return (
            "The label is of the healthy: a positive call says 'no finding'. 'Underdiagnosed' is the share of images "
            "with any finding that were called free of findings, the false-positive rate of the label."
        )
    return (
        "'False alarms' is the share of images without the finding that were called positive. 'Underdiagnosed' is the "
        f"share of images with {label.replace('_', ' ')} that were called negative; the head knows of no other "
        "finding, so whoever is ill otherwise is not counted."
    )


def _found(gaps: pd.DataFrame, label: str) -> list[object]:
    asked = gaps[gaps["p_holm"].notna()]
    found = asked[asked["p_holm"] < FOUND]
    if asked.empty:
        return ["No gap could be judged: no two groups of any attribute have enough patients."]
    if found.empty:
        return [
            f"Of {len(asked)} gaps that could be judged, none is beyond what chance alone makes of groups that are "
            "served alike. That is no proof that they are: see how wide the intervals are."
        ]
    lines = [
        f"<li>{tag('span', attribute_name(row['attribute']), 'bad')}: "
        f"{_short(row['metric'], label)} differs by {cell(row)}{_where(row['note'])}</li>"
        for row in found.sort_values("p_holm", kind="stable").to_dict("records")
        if row["metric"] in page_tables.asked(label)
    ]
    return [
        f"{len(found)} of {len(asked)} gaps that could be judged are beyond what chance alone makes of groups that are "
        "served alike:",
        Html(f"<ul>{''.join(lines)}</ul>"),
    ]


def _short(metric: str, label: str) -> str:
    healthy = label == NO_FINDING
    return {
        "auroc": "the ranking (AUROC)",
        "equal_opportunity": "how often the healthy are called healthy" if healthy else "how often it is caught",
        "equalized_odds": "how often the healthy or the ill are called healthy"
        if healthy
        else "how often it is caught, or falsely called,",
        "predictive_parity": "how often a positive call is right",
        "calibration": "the calibration error",
        "demographic_parity": "how often people are called positive",
        "underdiagnosis": "how often the ill are called healthy",
    }[metric]


def _where(note: str) -> Html:
    said = page_tables.ends(note)
    return tag("span", f"; {said}") if said else Html("")


def _picture(drawn: Picture | None, caption: str, alternative: str) -> list[object]:
    return [picture(drawn.png, caption, alternative)] if drawn else []
