"""From a template and measured values to a card in Markdown, with Hugging Face's front matter before it.

Jinja2's only door. The templates hold words and no figure: every figure comes from a file of the release.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

INSUFFICIENT: Final = "insufficient data"
UNKNOWN: Final = "unknown"
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|#])")


def write(path: Path, template: str, front: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Write one card.

    Args:
        path: The file.
        template: Name of the template beside this module.
        front: The front matter.
        told: What the template is told.
    """
    world = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,  # a value that is not there is a fault, not an empty place
        autoescape=False,  # Markdown, not HTML: `md` escapes what came from elsewhere
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    world.filters |= {"md": plain, "score": score, "count": count, "spoken": spoken}
    matter = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=120)
    body = re.sub(r"\n{3,}", "\n\n", world.get_template(template).render(told))
    path.write_text(f"---\n{matter}---\n\n{body}", encoding="utf-8")


def plain(value: object) -> str:
    """Text from elsewhere as one line of Markdown that means nothing but itself."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def score(measured: Mapping[str, Any] | None) -> str:
    """A score with its interval; that there is not enough data where it has no value."""
    if measured is None or measured.get("value") is None:
        return INSUFFICIENT
    bounds = [measured.get("low"), measured.get("high")]
    told = f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if None not in bounds else " (no interval)"
    return f"{measured['value']:.3f}{told}"


def count(number: int | None) -> str:
    """A count with its thousands set apart."""
    return UNKNOWN if number is None else f"{int(number):,}"


def spoken(name: str) -> str:
    """A name of the manifest as people say it."""
    return plain(name.replace("+", " and ").replace("_", " "))
