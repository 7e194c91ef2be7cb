"""Which folders may stand on one leaderboard, and what their cohorts are called.

A cohort is a dataset: encoders are compared inside one only, on the same patients. Across cohorts the same encoders are
shown, each cohort in columns of its own; there what was done must have been the same, or a column would show another
encoder or another probe under the same name.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from hilum.errors import UsageError
from hilum.judgement.leaderboard.answers import Source

K = TypeVar("K", bound=tuple[object, ...])

FLOOR: Final = "pixels"
SHOWN_DIGITS: Final = 8  # of a digest, where no better name is known


def names(probes: Sequence[Source]) -> dict[str, str]:
    """What each cohort is called: the layout that it was read from, with its digest where that is not enough."""
    layouts = {probe.cohort: str(probe.facts.get("layout") or "dataset") for probe in probes}
    shared = list(layouts.values())
    return {
        cohort: layout if shared.count(layout) == 1 and layout != "dataset" else f"{layout} {cohort[:SHOWN_DIGITS]}"
        for cohort, layout in layouts.items()
    }


def require_comparable(probes: Sequence[Source], tuned: Sequence[Source]) -> None:
    """Refuse what does not belong on one leaderboard.

    Raises:
        UsageError: An encoder is there twice, a cohort lacks the floor, or the folders differ in the probe recipe, in
            the fine-tuned label or its recipe, or in the encoder that a name stands for; or a fine-tuning is of a
            dataset or a modality of which there is no probe.
    """
    called = names(probes)
    where = {probe.cohort: f" in {called[probe.cohort]}" if len(called) > 1 else "" for probe in probes}
    twice = _first_twice((probe.cohort, probe.modality, probe.encoder) for probe in probes)
    if twice:
        cohort, modality, encoder = twice
        raise UsageError(
            f"{encoder!r} is there twice for {modality}{where[cohort]}; a leaderboard takes each encoder once"
        )
    floors = {(probe.cohort, probe.modality) for probe in probes if probe.encoder == FLOOR}
    bare = sorted(
        {f"{probe.modality}{where[probe.cohort]}" for probe in probes if (probe.cohort, probe.modality) not in floors}
    )
    if bare or not probes:
        raise UsageError(
            f"there is no `{FLOOR}` among the probes{' of ' + ', '.join(bare) if bare else ''}: it is the floor that "
            "every encoder must beat, and no leaderboard is made without it"
        )
    _one(probes, "probe recipe", lambda probe: str(probe.facts["run"]["recipe_digest"])[:12])
    _one(probes, "label", lambda probe: str(probe.facts["label"]))
    _one(tuned, "fine-tuned label", lambda source: str(source.facts["label"]))
    for source in tuned:
        if (source.cohort, source.modality) not in floors:
            raise UsageError(
                f"{source.encoder!r} was fine-tuned on {source.modality} of a dataset of which there is no probe "
                f"({source.cohort[:12]}); give the probes of that dataset too"
            )
    again = _first_twice(
        (source.cohort, source.modality, answer.encoder, answer.way, answer.covariates)
        for source in tuned
        for answer in source.answers
        if answer.encoder
    )
    if again:
        cohort, modality, encoder, way, _ = again
        raise UsageError(
            f"{encoder!r} is fine-tuned twice ({way}) for {modality}{where[cohort]}; a leaderboard takes each once"
        )
    recipes: dict[tuple[str, ...], str] = {}
    for source in tuned:
        for (mode, fusion), recipe in source.recipes.items():
            if recipes.setdefault((source.modality, mode, fusion), recipe) != recipe:
                raise UsageError(
                    f"these fine-tunings differ in their recipe ({mode}, {fusion}); only those by one recipe compare"
                )
    _same_encoders([*probes, *tuned])


def _same_encoders(sources: Sequence[Source]) -> None:
    for what in ("training recipe", "weights"):
        held: dict[tuple[str, str], str] = {}
        for source in sources:
            digest = source.weights if what == "weights" else source.encoder_recipe
            if digest and held.setdefault((source.modality, source.encoder), digest) != digest:
                raise UsageError(
                    f"{source.encoder!r} for {source.modality} stands for two encoders: they differ in their {what} "
                    f"({held[source.modality, source.encoder][:12]}, {digest[:12]}); a name on the leaderboard stands "
                    "for one"
                )


def _one(sources: Iterable[Source], what: str, of: Callable[[Source], str]) -> None:
    found = sorted({of(source) for source in sources})
    if len(found) > 1:
        raise UsageError(
            f"these {'probes' if what != 'fine-tuned label' else 'fine-tunings'} differ in their {what} "
            f"({', '.join(found)}); only those with one {what} compare"
        )


def _first_twice(keys: Iterable[K]) -> K | None:
    seen: set[K] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None
