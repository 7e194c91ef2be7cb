"""One look for every page that hilum writes: self-contained HTML, readable without a network, on paper and in the dark.

A page says who made it (code, data, recipe) at its foot, so that a page found alone can be traced.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

INK: Final = "#1b2430"  # of text and lines, on pages and in pictures
SOFT: Final = "#5b6778"  # of what stands back

_STYLE: Final = """
:root { color-scheme: light dark; --ink:INK; --soft:SOFT; --line:#d9dfe7; --ground:#ffffff; --band:#f4f6f9;
  --good:#12724a; --bad:#b3261e; --doubt:#8a5a00; --accent:#1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6ebf2; --soft:#9aa7b8; --line:#323c4a; --ground:#12171e;
  --band:#1a212b; --good:#5fd3a0; --bad:#ff8a80; --doubt:#f0c060; --accent:#7db4f5; } }
* { box-sizing: border-box } body { margin:0 auto; max-width:72rem; padding:2rem 1.25rem 3rem; background:var(--ground);
  color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif }
h1 { font-size:1.7rem; line-height:1.2; margin:0 0 .4rem } h2 { font-size:1.15rem; margin:2.2rem 0 .6rem }
p { max-width:46rem; margin:.4rem 0 } .lead { color:var(--soft) } .wide { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:.92rem; font-variant-numeric:tabular-nums }
th { text-align:left; font-weight:600; color:var(--soft); border-bottom:2px solid var(--line); padding:.35rem .7rem .35rem 0;
  vertical-align:bottom } td { border-bottom:1px solid var(--line); padding:.35rem .7rem .35rem 0; vertical-align:top }
td.number, th.number { text-align:right } .good { color:var(--good); font-weight:600 } .bad { color:var(--bad);
  font-weight:600 } .doubt { color:var(--doubt); font-weight:600 } .caution { border-left:3px solid var(--doubt);
  background:var(--band); padding:.5rem .9rem; margin:1rem 0; max-width:46rem } figure { margin:1rem 0 }
figure img { max-width:100%; background:#fff; border:1px solid var(--line) } figcaption, footer { color:var(--soft);
  font-size:.85rem } footer { margin-top:3rem; border-top:1px solid var(--line); padding-top:.7rem; overflow-wrap:anywhere }
code { font-size:.9em }
""".replace("INK", INK).replace("SOFT", SOFT)


class Html(str):
    """Text that is HTML already; any other string is escaped where it enters a page."""

    __slots__ = ()


def text(value: object) -> Html:
    """`value` as HTML text: escaped, unless it is Html already."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def tag(name: str, content: object, css: str = "") -> Html:
    """One element, its content escaped unless it is Html; `css` is its class."""
    return Html(
        f'<{name} class="{escape(css)}">{text(content)}</{name}>' if css else f"<{name}>{text(content)}</{name}>"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], numeric: Sequence[str] = ()) -> Html:
    """A table that scrolls where the window is narrow; `numeric` columns are set right."""
    css = ["number" if column in numeric else "" for column in columns]
    head = "".join(_cell("th", column, style) for column, style in zip(columns, css, strict=True))
    body = "".join(
        f"<tr>{''.join(_cell('td', value, style) for value, style in zip(row, css, strict=True))}</tr>" for row in rows
    )
    return Html(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _cell(name: str, content: object, css: str) -> Html:
    return tag(name, content, css)


def picture(png: bytes, caption: str, alternative: str) -> Html:
    """A PNG inside the page itself; `alternative` says what it shows to those who cannot see it."""
    data = base64.b64encode(png).decode()
    return Html(
        f'<figure><img alt="{escape(alternative)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def page(title: str, lead: str, sections: Sequence[object], run: Mapping[str, str], caution: str = "") -> str:
    """A whole page.

    Args:
        title: What the page is about.
        lead: One or two sentences that say what it found.
        sections: Html pieces, or plain text that becomes a paragraph.
        run: The run's identity (hilum.identity.Run, or more), printed at the foot.
        caution: What a reader of the results must know first.
    """
    body = "".join(piece if isinstance(piece, Html) else tag("p", piece) for piece in sections)
    foot = " &middot; ".join(
        f"{escape(name.replace('_', ' '))} <code>{escape(value)}</code>" for name, value in run.items()
    )
    warned = tag("div", caution, "caution") if caution else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)} - hilum</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><p class='lead'>{escape(lead)}</p>{warned}{body}"
        f"<footer>{foot}</footer></body></html>\n"
    )


def write_page(path: Path, content: str) -> None:
    """Write a page, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)
