"""The shortcut audit as a page for those who will use the answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hilum.judgement.shortcuts import pictures
from hilum.judgement.shortcuts.attributes import spoken
from hilum.judgement.shortcuts.verdicts import DECODABLE, INSUFFICIENT, NOT_FOUND, SHORTCUT, Finding
from hilum.page import Html, page, picture, table, tag

_CSS: Final = {SHORTCUT: "bad", DECODABLE: "doubt", NOT_FOUND: "good", INSUFFICIENT: "doubt"}
_SAID: Final = {
    SHORTCUT: "shortcut", DECODABLE: "can be told", NOT_FOUND: "not found", INSUFFICIENT: "insufficient data",
}  # fmt: skip
_MODALITY: Final = {"XR": "X-ray", "MR": "MRI"}
_TO: Final = "\u2060\u2013\u2060"  # an en dash that no line breaks at


def render(facts: Mapping[str, Any], findings: Sequence[Finding], sheet: bytes | None) -> str:
    """The page.

    Args:
        facts: What `shortcuts.json` says.
        findings: What it was made from, in the same order as its entries.
        sheet: Contact sheet of the clusters; None where there are none.
    """
    label = str(facts["label"]).replace("_", " ")
    return page(
        f"Shortcuts: {label}",
        f"{facts['encoder']}, {_MODALITY[facts['modality']]}: {_summary(facts, label)}",
        [
            tag("h2", "What was asked"),
            f"A model may rank patients by something other than signs of {label}: by the hospital, the view, the "
            "dataset an image comes from. Here each is asked three questions. Can it be told from the embedding among "
            f"images that agree on {label}? Does it go with {label} in this dataset? And does the score for {label} "
            "lose where it is held fixed? Only where all three are so, or where it can hardly be parted from the label "
            "at all, it is called a shortcut. That something can be told does not by itself say that it is used.",
            tag("h2", "What was found"),
            _entries(facts),
            *([_told(findings)] if any(one.decoding.auroc.bounded for one in findings) else []),
            *_not_asked(facts),
            *_strata(facts, findings, label),
            *_positions(facts),
            *_modes(facts),
            *_clusters(facts, sheet),
            tag("h2", "How to read this"),
            "An AUROC of 0.5 is a coin toss, 1 is certainty. Intervals come from drawing patients again and again, "
            "each with all their images; what chance reaches comes from dealing the attribute out anew among patients "
            "with the same label. The decoder is linear: what only a more flexible one would find is not found here.",
        ],
        {name: str(value) for name, value in facts["run"].items()},
        str(facts["caution"]),
    )


def _summary(facts: Mapping[str, Any], label: str) -> str:
    named = {
        verdict: [spoken(e["attribute"]) for e in facts["entries"] if e["verdict"] == verdict] for verdict in _SAID
    }
    parts = []
    if named[SHORTCUT]:
        parts.append(f"a score for {label} may come from {_listed(named[SHORTCUT])}")
    elif facts["label_known"]["n"]:
        parts.append("no shortcut was shown")
    else:
        parts.append(f"{label} is known of no image, so that it is only asked what can be told")
    if named[DECODABLE]:
        parts.append(f"{_listed(named[DECODABLE])} can be told from the embedding")
    if named[NOT_FOUND]:
        parts.append(f"{_listed(named[NOT_FOUND])} cannot")
    if named[INSUFFICIENT]:
        parts.append(f"of {_listed(named[INSUFFICIENT])} too little is known")
    unexplained = sum(not one["explained"] for one in facts["clusters"]["found"])
    if unexplained:
        parts.append(f"{unexplained} group{'s' * (unexplained > 1)} of images lie{'s' * (unexplained == 1)} apart, and "
                     "nothing known tells why")  # fmt: skip
    return "; ".join(parts) + "."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _entries(facts: Mapping[str, Any]) -> Html:
    rows = [
        (
            spoken(one["attribute"]).removeprefix("the "),
            tag("span", _SAID[one["verdict"]], _CSS[one["verdict"]]),
            _cell(one, "auroc"),
            _cell(one["association"], "auroc"),
            _cell(one["drop"], decimals=3),
            f"{one['n']:,} / {one['n_patients']:,}",
            one["words"] + (f" ({one['note']}.)" if one["note"] else ""),
        )
        for one in facts["entries"]
    ]
    columns = ["attribute", "verdict", "told (AUROC)", "ranks the label", "score lost", "images / patients", "in words"]
    return table(columns, rows, numeric=columns[5:6])


def _told(findings: Sequence[Finding]) -> Html:
    return picture(
        pictures.told(findings),
        "How well each attribute is told from the embedding among images with the same label.",
        "A line per attribute: AUROC with its interval, and the level that chance reaches.",
    )


def _not_asked(facts: Mapping[str, Any]) -> list[Html]:
    left = [f"{spoken(name).removeprefix('the ')} ({why})" for name, why in facts["not_asked"].items()]
    return [tag("p", f"Not asked: {'; '.join(left)}.")] if left else []


def _strata(facts: Mapping[str, Any], findings: Sequence[Finding], label: str) -> list[object]:
    if not facts["strata"]:
        return []
    rows: list[tuple[object, ...]] = []
    for name in dict.fromkeys(one["attribute"] for one in facts["strata"]):
        levels = [one for one in facts["strata"] if one["attribute"] == name]
        judged = [one for one in levels if one["value"] is not None]
        what = spoken(name).removeprefix("the ")
        rows += [
            (what, one["level"], _cell(one), f"{one['n']:,}", f"{one['n_patients']:,}", f"{one['n_positive']:,}")
            for one in judged
        ]
        if few := [one["level"] for one in levels if one["value"] is None]:
            rows.append((what, ", ".join(few), tag("span", "insufficient data", "doubt"), "", "", ""))
    columns = ["attribute", "level", f"AUROC of {label}", "images", "patients", "images with finding"]
    drawn = any(s.auroc.bounded for one in findings if one.inside is not None for s in one.inside.strata)
    return [
        tag("h2", f"The score for {label} where an attribute is held fixed"),
        f"The score is {facts['score']}. Where the AUROC over everybody is higher than inside each level, part of it "
        "comes from ranking levels, not patients.",
        *(
            [
                picture(
                    pictures.inside(findings),
                    f"AUROC of {label} inside each level that has enough patients with and without it.",
                    "A line per level: AUROC with its interval; a dashed line marks the AUROC over all levels.",
                )
            ]
            if drawn
            else []
        ),
        table(columns, rows, numeric=columns[3:]),
    ]


def _positions(facts: Mapping[str, Any]) -> list[object]:
    if not facts["positions"]:
        return []
    clear = [one for one in facts["positions"] if one["found"]]
    said = "".join(f"<li>{tag('span', one['words'])}</li>" for one in clear)
    n = len(facts["positions"])
    return [
        tag("h2", "Where the body lies in the frame"),
        Html(f"<ul>{said}</ul>") if clear else f"No group's images lie clearly elsewhere ({n} comparisons).",
        f"Each image is laid on the mean image of its view; {n} comparisons, corrected for how many there are. One "
        f"pixel is 1/{facts['image_size']} of the frame.",
    ]


def _modes(facts: Mapping[str, Any]) -> list[object]:
    found = [one for one in facts["modes"] if one["found"]]
    if not facts["modes"]:
        return []
    rows = [
        (
            spoken(one["attribute"]).removeprefix("the "),
            one["level"],
            f"{one['mode']}",
            f"{one['ks']:.2f}",
            f"{one['p_by']:.2g}",
            f"{one['n_patients']:,}",
        )
        for one in found
    ]
    columns = ["attribute", "level", "component", "distance", "corrected p", "patients"]
    return [
        tag("h2", "Main directions of the embedding"),
        f"{len(found)} of {len(facts['modes'])} comparisons differ: a level against the rest, along a principal "
        "component, with label and view made alike (Kolmogorov-Smirnov distance, 0 to 1).",
        *([table(columns, rows, numeric=columns[2:])] if found else []),
    ]


def _clusters(facts: Mapping[str, Any], sheet: bytes | None) -> list[object]:
    clusters = facts["clusters"]
    said = [tag("h2", "Groups of images that lie apart")]
    if not clusters["found"]:
        return [*said, f"None among {clusters['n_images']:,} images, view by view."]
    rows = [
        (
            one["cluster"],
            f"{one['n']:,} / {one['n_patients']:,}",
            tag("span", *(("explained", "good") if one["explained"] else ("unexplained", "doubt"))),
            one["words"],
        )
        for one in clusters["found"]
    ]
    shown = [] if sheet is None else [picture(
        sheet,
        "For each group the images nearest to its middle, its mean image, and how that differs from the mean of the "
        "view's other groups: red is brighter, blue is darker.",
        "A row of images for each group of images that lie apart.",
    )]  # fmt: skip
    return [*said, table(["group", "images / patients", "", "in words"], rows, numeric=["images / patients"]), *shown]


def _cell(one: Mapping[str, Any] | None, value: str = "value", decimals: int = 2) -> str:
    """`0.81 (0.74–0.88)`, the interval kept on one line; a dash where it is not known."""
    if one is None or one[value] is None:
        return "\u2013"
    if one["low"] is None or one["high"] is None:
        return f"{one[value]:.{decimals}f} (no interval)"
    to = _TO if one["low"] >= 0 else " to "
    return f"{one[value]:.{decimals}f} ({one['low']:.{decimals}f}{to}{one['high']:.{decimals}f})"
