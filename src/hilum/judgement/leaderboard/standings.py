"""How the leaderboard is shown: tables for Markdown and for a page, and the words that keep a reader from over-reading.

For each modality and cohort there are three: the scores, what each column establishes, and what is gained over the
floor. The order of lines is the alphabet's after the floor; no order of merit is claimed by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from hilum.judgement.leaderboard import tables, words
from hilum.judgement.leaderboard.answers import Source
from hilum.judgement.leaderboard.columns import Column, Row
from hilum.judgement.leaderboard.tables import Table
from hilum.page import Html, page, table, tag, text, write_page

MARKDOWN: Final = "leaderboard.md"
PAGE: Final = "leaderboard.html"
TITLE: Final = "Leaderboard"
ESTABLISHED: Final = ("question", "what is established", "images", "positive", "patients")
NUMERIC: Final = ESTABLISHED[2:]
# Wide tables: the bounds go under the score where there is no room beside it, and the encoder stays in sight.
STYLE: Final = Html(
    "<style>.board table{width:auto;min-width:60%} .board td,.board th{padding-right:1rem}"
    ".board .whole{white-space:nowrap} .board .soft{color:var(--soft);font-weight:400;font-size:.92em}"
    ".board .claim{min-width:14rem} .board td:first-child,.board th:first-child{position:sticky;left:0;"
    "background:var(--ground)}</style>"
)


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        plain: As Markdown has it.
        html: As the page has it.
    """

    plain: str
    html: Html


Grid = tuple[list[Cell], list[list[Cell]]]  # header and lines


def write(
    gathered: Sequence[Table],
    probes: Sequence[Source],
    tuned: Sequence[Source],
    label: str,
    refused: Sequence[str],
    out: Path,
) -> None:
    """Write `leaderboard.md` and `leaderboard.html`.

    Args:
        gathered: In the order in which they are shown.
        probes: Where their scores come from.
        tuned: Likewise.
        label: What the encoders are to answer for.
        refused: Why a fine-tuning was not made, each said once.
        out: An existing folder.
    """
    facts = probes[0].facts
    ways = list(dict.fromkeys(way for each in gathered for _, way in each.rows))
    fusions = sorted({answer.fusion for source in tuned for answer in source.answers if answer.fusion})
    said = words.protocol(facts, label if tuned else "", [one for one in fusions if one != "stacking"], ways)
    said += [f"Not fine-tuned for {why}." for why in refused]
    caution = _cautions([*probes, *tuned])
    run = _identity(probes, tuned)
    markdown = [f"# {TITLE}", "", words.LEAD, "", *(f"{one}\n" for one in said)]
    markdown += [f"> {caution}", ""] if caution else []
    sections: list[object] = [STYLE, *said]
    for modality, group in groupby(gathered, key=lambda each: each.modality):
        of_modality = list(group)
        name = words.MODALITIES.get(modality, modality)
        several = len(of_modality) > 1
        shared = tables.across(of_modality, label)
        if shared is not None:
            _section(
                f"{name}: {words.title(label)} in each cohort", _scores(shared, shared.columns), markdown, sections
            )
        for each in of_modality:
            scored = [column for column in each.columns if column.scored]
            _section(f"{name}: {each.cohort}" if several else name, _scores(each, scored), markdown, sections)
            _section("What each column establishes", _claims(each), markdown, sections, level=3)
            if (gains := _gains(each))[1]:
                _section("Gain over pixels", gains, markdown, sections, level=3)
            for line in _unscored(each):
                markdown += [line, ""]
                sections.append(line)
    markdown += ["## How to read this", "", *(f"{one}\n" for one in words.READING)]
    markdown += [", ".join(f"{name.replace('_', ' ')} `{value}`" for name, value in run.items()), ""]
    sections += [tag("h2", "How to read this"), *(one.replace("`", "") for one in words.READING)]
    partial = out / f"{MARKDOWN}.partial"
    partial.write_text("\n".join(markdown), encoding="utf-8")
    partial.replace(out / MARKDOWN)
    write_page(out / PAGE, page(TITLE, words.LEAD.replace("`", ""), sections, run, caution))


def _section(name: str, grid: Grid, markdown: list[str], sections: list[object], level: int = 2) -> None:
    header, lines = grid
    markdown += [f"{'#' * level} {name}", "", _markdown(header, lines), ""]
    shown = table([cell.html for cell in header], [[cell.html for cell in line] for line in lines], NUMERIC)
    sections += [tag(f"h{level}", name), tag("div", shown, "board")]


def _scores(each: Table, shown: Sequence[Column]) -> Grid:
    """One line per encoder and way, and below them what is to be known of each column."""
    lines = [[*_name(row), *(_score(column, row) for column in shown)] for row in each.rows]
    below: list[tuple[str, Callable[[Column], str]]] = [("chance", words.chance), ("least difference", words.least)]
    lines += [
        [Cell(f"*{name}*", tag("span", name, "soft")), _plain(""), *(_soft(of(column)) for column in shown)]
        for name, of in below
    ]
    return _header(shown), lines


def _header(shown: Sequence[Column]) -> list[Cell]:
    names = [
        Cell(
            f"{words.heading(column)}, {words.metric(column)}",
            Html(f"{text(words.heading(column))}<br>{tag('span', words.metric(column), 'soft')}"),
        )
        for column in shown
    ]
    return [_plain("encoder"), _plain("way"), *names]


def _name(row: Row) -> tuple[Cell, Cell]:
    encoder, way = row
    return _plain(encoder or "none"), Cell(way, tag("span", way, "whole"))


def _score(column: Column, row: Row) -> Cell:
    if row not in column.answers:
        return _soft(words.DASH)
    score, standing, places = column.answers[row].score, column.standing(row), words.digits(column)
    if standing == "not scored":
        return Cell(score.note, tag("span", score.note, "doubt"))
    value, bounds = f"{score.value:.{places}f}", words.bounds(score, places)
    word = standing if standing in ("best", "tied") else ""
    plain = f"**{value} {bounds}** {word}" if standing == "best" else f"{value} {bounds} {word}".strip()
    css = "good" if standing == "best" else "whole"
    html = f"{tag('span', value, css)} {tag('span', bounds, 'soft whole')}"
    return Cell(plain, Html(f"{html} {tag('span', word, 'good' if word == 'best' else 'soft')}" if word else html))


def _claims(each: Table) -> Grid:
    """One line per column that was scored."""
    lines = []
    for column in each.columns:
        if column.scored:
            asked, claim = f"{words.heading(column)}, {words.metric(column)}", words.established(each, column)
            lines.append([_plain(asked), Cell(claim, tag("div", claim, "claim")), *map(_plain, words.counts(column))])
    return [_plain(name) for name in ESTABLISHED], lines


def _gains(each: Table) -> Grid:
    """One line per row that was compared with `pixels` somewhere."""
    compared = [column for column in each.columns if any(tables.over_the_floor(column, row) for row in each.rows)]
    lines = [
        [*_name(row), *(_gain(column, row) for column in compared)]
        for row in each.rows
        if any(tables.over_the_floor(column, row) for column in compared)
    ]
    return _header(compared), lines


def _gain(column: Column, row: Row) -> Cell:
    over = tables.over_the_floor(column, row)
    if over is None:
        return _soft(words.DASH)
    gain, places = over.seen_from(row), words.digits(column)
    value, bounds, word = f"{gain.value:+.{places}f}", words.bounds(gain, places, "+"), words.verdict(row, over)
    css = {"better": "good", "worse": "bad"}.get(word, "soft")
    html = f"{tag('span', value, 'whole')} {tag('span', bounds, 'soft whole')} {tag('span', word, css)}"
    return Cell(f"{value} {bounds}, {word}", Html(html))


def _unscored(each: Table) -> list[str]:
    """Columns without a score, with the reason; a label that no image of this modality has is no news here."""
    found = []
    for column in each.columns:
        answer = next(iter(column.answers.values()))
        if not column.scored and answer.score.n > 0:
            images, positive, patients = words.counts(column)
            known = f"{images} images{f', {positive} of them positive,' if positive else ''} of {patients} patients"
            found.append(f"{words.heading(column)} ({words.metric(column)}): {answer.score.note} ({known}).")
    return found


def _plain(shown: str) -> Cell:
    return Cell(shown, text(shown))


def _soft(shown: str) -> Cell:
    return Cell(shown, tag("span", shown, "soft whole"))


def _markdown(header: Sequence[Cell], lines: Sequence[Sequence[Cell]]) -> str:
    rule = ["---:" if cell.plain in NUMERIC else "---" for cell in header]
    plain = [[cell.plain for cell in line] for line in (header, *lines)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (plain[0], rule, *plain[1:]))


def _cautions(sources: Sequence[Source]) -> str:
    """What a reader must know of each cohort, each said once."""
    return " ".join(dict.fromkeys(str(source.facts["caution"]) for source in sources if source.facts["caution"]))


def _identity(probes: Sequence[Source], tuned: Sequence[Source]) -> dict[str, str]:
    """The runs' identity: one where there is one, all of them where there are several."""
    run = {
        name: ", ".join(dict.fromkeys(str(source.facts["run"][name]) for source in probes))
        for name in ("code_revision", "data_digest", "recipe_digest")
    }
    recipes = dict.fromkeys(str(source.facts["run"]["recipe_digest"]) for source in tuned)
    return run | ({"fine_tuning_recipe_digest": ", ".join(recipes)} if recipes else {})
