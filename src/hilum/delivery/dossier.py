"""The dossier: the hashes of everything that a release rests on, chained, so that anyone can recompute them.

dossier.json holds a list of links. A fact's link has a name and a value (the digest of the data, the revision of the
code); a file's link has its path within the release and its SHA-256. Each link's `chain` is the SHA-256 of the previous
link's chain, a newline, and the link's own canonical JSON; the last one is the id of the dossier. Nothing can thus be
changed, left out, added or reordered without another id.

card.json cannot name the dossier that hashes it; the dossier names the card.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hilum.delivery.card import CARD, ReleaseCard
from hilum.errors import ReleaseError
from hilum.identity import digest_bytes, digest_file

DOSSIER: Final = "dossier.json"
SHORT: Final = 16  # hex digits of the id in answers and logs
MITIGATION: Final = "head_mitigation"  # the fact that says what the head was fitted with
ABSENT: Final = "absent"  # value of a fact that a release does not have, recorded: it cannot be slipped in later
_ABOUT: Final = (
    "Each link's chain is SHA-256(previous chain + newline + the link without its chain as JSON with sorted keys and "
    "no blanks); the first previous chain is empty, and the last chain is the id. "
    "hilum.delivery.dossier.verify recomputes it."
)


def draw_up(release: Path, facts: Mapping[str, str | None]) -> dict[str, Any]:
    """Make the dossier of a release folder.

    Args:
        release: The folder, complete but for the dossier and the archives that will hold it.
        facts: What the release rests on that does not lie in it, in the order of the way of the data; None is absent.

    Returns:
        What belongs into dossier.json.
    """
    links: list[dict[str, str]] = [{"fact": name, "value": value or ABSENT} for name, value in facts.items()]
    links += [{"file": name, "sha256": digest_file(release / name)} for name in _files(release)]
    chain = ""
    for link in links:
        chain = link["chain"] = _next(chain, link)
    return {"about": _ABOUT, "id": chain, "links": links}


def verify(release: Path) -> str:
    """Recompute the dossier of a release from what lies in it.

    Returns:
        The id of the dossier.

    Raises:
        ReleaseError: Something is missing, was changed or was added; the message names it.
    """
    dossier = read(release)
    chain, named = "", set()
    for link in dossier["links"]:
        if _next(chain, {key: value for key, value in link.items() if key != "chain"}) != link.get("chain"):
            raise ReleaseError(f"{DOSSIER} was changed at the link {_name(link)!r}; export the release again")
        chain = link["chain"]
        if "file" in link:
            named.add(link["file"])
            _check_file(release, link["file"], link["sha256"])
    if chain != dossier["id"]:
        raise ReleaseError(f"{DOSSIER} was changed: its links end at {chain[:SHORT]}, not at its id; export again")
    if strange := sorted(set(_files(release)) - named):
        raise ReleaseError(f"{strange[0]} lies in the release, but its {DOSSIER} does not name it; take it out")
    _check_run(release, dossier)
    return chain


def read(release: Path) -> dict[str, Any]:
    """The dossier of a release folder, not yet verified.

    Raises:
        ReleaseError: There is none, or it does not have the form of one.
    """
    try:
        dossier: dict[str, Any] = json.loads((release / DOSSIER).read_text(encoding="utf-8"))
        links = dossier["links"]
        formed = isinstance(dossier["id"], str) and all(
            isinstance(link, dict) and all(isinstance(value, str) for value in link.values()) and _name(link)
            for link in links
        )
    except OSError as error:
        raise ReleaseError(f"{release} is not a release: it has no {DOSSIER}; `hilum export` writes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{DOSSIER} of the release is not a dossier: {error!r}; export it again") from error
    if not (formed and links):
        raise ReleaseError(f"{DOSSIER} of the release is not a dossier: its links are malformed; export it again")
    return dossier


def facts(dossier: Mapping[str, Any]) -> dict[str, str]:
    """The facts of a dossier by name."""
    return {link["fact"]: link["value"] for link in dossier["links"] if "fact" in link}


def _next(chain: str, link: Mapping[str, str]) -> str:
    return digest_bytes(f"{chain}\n{json.dumps(dict(link), sort_keys=True, separators=(',', ':'))}".encode())


def _name(link: Mapping[str, str]) -> str:
    """A link's own name; a KeyError where it is neither a fact nor a file."""
    return link["file"] if "file" in link and link["sha256"] else link["fact"]


def _files(release: Path) -> list[str]:
    """What lies in a release, but for the dossier itself and the archives, which hold the dossier."""
    found = (path.relative_to(release) for path in release.rglob("*") if not path.is_dir())
    return sorted(
        path.as_posix()
        for path in found
        if path.as_posix() != DOSSIER and not (path.parent == Path() and path.suffix == ".mar")
    )


def _check_file(release: Path, name: str, expected: str) -> None:
    path = release / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ReleaseError(f"{DOSSIER} names {name!r}, which lies outside the release; export it again")
    if path.is_symlink() or not path.is_file():
        raise ReleaseError(f"{name} is missing from the release, though its {DOSSIER} names it; export it again")
    if (found := digest_file(path)) != expected:
        raise ReleaseError(
            f"{name} of the release is not the one that its {DOSSIER} names: its SHA-256 begins with "
            f"{found[:SHORT]}, not {expected[:SHORT]}; export it again or fetch it anew"
        )


def _check_run(release: Path, dossier: Mapping[str, Any]) -> None:
    """The card's run, mitigation and gate are said by the dossier's facts too; they must agree."""
    if not (release / CARD).is_file():
        return
    card, said = ReleaseCard.load(release), facts(dossier)
    mitigation = str(card.mitigation) if card.mitigation is not None else None
    for key, told in {**card.run, MITIGATION: mitigation, **card.gate.facts()}.items():
        if said.get(key) != (value := told or ABSENT):
            raise ReleaseError(f"{CARD} says {key} {value!r}, but {DOSSIER} {said.get(key)!r}; export it again")
