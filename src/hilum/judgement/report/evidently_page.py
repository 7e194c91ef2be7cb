"""Parts of an Evidently report as one page, under a banner that says what it is and over the run that made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from hilum.judgement.report.door import group_widget, render_widgets
from hilum.page import tag, text

_STYLE: Final = (
    "<style>.hilum{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1.2rem 1rem;color:#1b2430;"
    "background:#fff;overflow-wrap:anywhere}.hilum h1{font-size:1.6rem;margin:0 0 .4rem}.hilum p{margin:.4rem 0}"
    ".hilum .caution{border-left:3px solid #8a5a00;background:#f4f6f9;padding:.5rem .9rem}"
    ".hilum table{border-collapse:collapse;font-size:.92rem}"
    ".hilum th,.hilum td{text-align:left;padding:.2rem 1.2rem .2rem 0;border-bottom:1px solid #d9dfe7}"
    ".hilum .number{text-align:right}"
    ".hilum.foot{font-size:.85rem;color:#5b6778}</style>"
)


@dataclass(frozen=True)
class Part:
    """One part of the page.

    Attributes:
        title: Over its widgets.
        said: What it found, in words, for the banner.
        facts: The same for programs.
        widgets: Evidently's; none where there is nothing to draw.
        shown: A table (HTML) under the words.
    """

    title: str
    said: str
    facts: dict[str, Any]
    widgets: list[Any] = field(default_factory=list)
    shown: str = ""


def page(title: str, caution: str, parts: Sequence[Part], foot: Mapping[str, str]) -> str:
    """The whole page, self-contained.

    Args:
        title: What the page is about.
        caution: What a reader must know of the dataset; may be empty.
        parts: In order; the words of all stand in the banner, then the widgets of each.
        foot: Who made it: the run's identity, or more.
    """
    html = str(render_widgets([group_widget(title=part.title, widgets=part.widgets) for part in parts if part.widgets]))
    head_end, body, end = html.index("</head>"), html.index("<body>") + len("<body>"), html.rindex("</body>")
    warned = tag("div", caution, "caution") if caution else ""
    spoken = "".join(f"{tag('p', part.said)}{part.shown}" for part in parts)
    banner = f"{_STYLE}<div class='hilum'>{tag('h1', title)}{warned}{spoken}</div>"
    identity = " &middot; ".join(f"{text(k.replace('_', ' '))} <code>{text(v)}</code>" for k, v in foot.items())
    return (
        f"{html[:head_end]}<title>{text(title)} - hilum</title>{html[head_end:body]}{banner}{html[body:end]}"
        f"<div class='hilum foot'>{identity}</div>{html[end:]}"
    )


def harmless(table: pd.DataFrame) -> pd.DataFrame:
    """Levels without `<`: Evidently writes values into a script element without escaping them."""
    shown = table.copy()
    for name in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[name]):
            shown[name] = shown[name].str.replace("<", "(", regex=False)
    return shown
