"""The verdict: criterion by criterion, whether a release may be exported, and who released it if not by the evidence.

Only a pass exports. "Insufficient data" is no pass: what was asked and could not be shown holds a release back as a
failure does, until somebody answers for it by name (hilum.judgement.gate.override). A release that answers embeddings
alone makes no decision that could be judged by the label; where nothing could be asked of it, it says so and is let
through. A recipe that asks nothing of a release that does decide lets nothing through.

verdict.json   the `Verdict`
gate.html      the same for people (hilum.judgement.gate.page)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from hilum.data.store import read_json, write_json
from hilum.errors import CheckFailed, DatasetError, UsageError
from hilum.identity import Run, code_revision
from hilum.judgement.gate.criteria import FAIL, INSUFFICIENT, NOT_ASKED, PASS, Criterion, Word, judge, overall
from hilum.judgement.gate.evidence import FLOOR, SHORTCUTS, Evidence
from hilum.judgement.gate.override import Override
from hilum.judgement.gate.page import PAGE, render
from hilum.judgement.probing.probes import FACTS as PROBE
from hilum.page import write_page
from hilum.recipe import Gate, digest, parse

VERDICT: Final = "verdict.json"


class Verdict(BaseModel):
    """What `verdict.json` says.

    Attributes:
        verdict: The worst of all criteria.
        encoder: Which encoder was judged.
        label: What its head answers.
        answered: By modality, whether the release answers for the label, or embeddings alone.
        criteria: Every question and its answer.
        override: Who releases it although it did not pass.
        tolerances: The recipe's section.
        caution: What a reader must know of the data.
        run: Who judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Word
    encoder: str
    label: str
    answered: dict[str, bool]
    criteria: tuple[Criterion, ...]
    override: Override | None = None
    tolerances: dict[str, Any]
    caution: str = ""
    run: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Verdict":
        """Read `verdict.json`.

        Raises:
            DatasetError: There is none, it is something else, or it does not follow from its own criteria.
        """
        said = read_json(folder / VERDICT)
        try:
            found = cls.model_validate(said)
        except ValidationError as error:
            raise DatasetError(
                f"{folder / VERDICT} is no verdict of the gate; `hilum gate` writes one into a folder of its own"
            ) from error
        false = [one.criterion for one in found.criteria if not one.follows]
        if false or found.verdict != overall([one.verdict for one in found.criteria]):
            raise DatasetError(
                f"{folder / VERDICT} does not follow from its own numbers ({', '.join(false) or 'verdict'}), so it was "
                "changed; run `hilum gate` again"
            )
        return found

    @property
    def passes(self) -> bool:
        """Whether the evidence alone lets the release through."""
        decides = [self.of(modality) for modality, answered in self.answered.items() if answered]
        return self.verdict in (PASS, NOT_ASKED) and all(word == PASS for word in decides)

    @property
    def allows(self) -> bool:
        """Whether it may be exported: it passes, or somebody answers for it."""
        return self.passes or self.override is not None

    @property
    def against(self) -> list[Criterion]:
        """The criteria that hold it back."""
        return [one for one in self.criteria if one.verdict in (FAIL, INSUFFICIENT)]

    def of(self, modality: str) -> Word:
        """The verdict on one modality."""
        return overall([one.verdict for one in self.criteria if one.modality == modality])

    def overridden(self, override: Override | None) -> "Verdict":
        """With an override; as it is where there is none, or where it passes and there is nothing to override."""
        return self if override is None or self.passes else self.model_copy(update={"override": override})

    def require(self) -> None:
        """Do nothing where the release may be exported.

        Raises:
            CheckFailed: It may not; the message names what holds it back, and how it is overridden.
        """
        if self.allows:
            return
        failed = [one.reason for one in self.against if one.verdict == FAIL]
        unknown = [f"{one.modality} {one.criterion}" for one in self.against if one.verdict == INSUFFICIENT]
        why = [*failed, *([f"not enough data to tell {', '.join(unknown)}"] if unknown else [])]
        raise CheckFailed(
            f"the gate refuses the release ({self.verdict}): {'; '.join(why) or 'the recipe asks nothing of it'}; "
            f"{PAGE} has the whole verdict, and --override NAME --reason TEXT lets somebody answer for it"
        )

    def write(self, out: Path) -> None:
        """Write `gate.html` and `verdict.json`, that one last.

        Raises:
            UsageError: The folder holds the verdict.json of a validation, which is another one.
        """
        out.mkdir(parents=True, exist_ok=True)
        if (out / VERDICT).is_file() and "criteria" not in read_json(out / VERDICT):
            raise UsageError(f"{out} holds a {VERDICT} that is not the gate's (a validation's?); name another folder")
        write_page(out / PAGE, render(self))
        write_json(out / VERDICT, self.model_dump(mode="json"))


def run(
    probe_dirs: Sequence[Path],
    audit_dirs: Sequence[Path],
    recipe: Gate,
    encoder: str,
    label: str,
    out: Path,
    override: Override | None = None,
    shortcut_dirs: Sequence[Path] = (),
) -> Verdict:
    """Judge one encoder in each of its modalities.

    Args:
        probe_dirs: Probe folders, with the head of the label in each. Of other encoders, only those of `pixels` are
            looked at, for what the encoder gains over them.
        audit_dirs: The audit of each, in the same order.
        recipe: Tolerances.
        encoder: Which encoder is to be released.
        label: What its head answers.
        out: Folder to write into.
        override: Who releases it even if it does not pass; not recorded where it passes.
        shortcut_dirs: Folders of shortcuts.json, in any order; where one is not named, it is looked for beside the
            audit and the probe.

    Raises:
        UsageError: No probe is of this encoder, probes and audits do not pair, they are of another label, or the recipe
            asks about an attribute that was not audited.
        DatasetError: A folder lacks its facts.
    """
    if len(probe_dirs) != len(audit_dirs):
        raise UsageError(
            f"each probe has its audit, but there are {len(probe_dirs)} probes and {len(audit_dirs)} audits"
        )
    told = [(read_json(probe / PROBE), probe, audit) for probe, audit in zip(probe_dirs, audit_dirs, strict=True)]
    floors = {facts["modality"]: probe for facts, probe, _ in told if facts["encoder"] == FLOOR}
    chosen = [(facts, probe, audit) for facts, probe, audit in told if facts["encoder"] == encoder]
    if not chosen:
        known = ", ".join(sorted({str(facts["encoder"]) for facts, _, _ in told})) or "none"
        raise UsageError(f"no probe is of the encoder {encoder!r}; there are probes of {known}")
    shortcuts = {(said["encoder"], said["modality"]): folder for folder, said in _shortcuts(shortcut_dirs)}
    evidence = [
        Evidence.read(
            probe, audit, label, shortcuts.get((encoder, facts["modality"])), floor=floors.get(facts["modality"])
        )
        for facts, probe, audit in chosen
    ]
    criteria = [criterion for one in evidence for criterion in judge(one, recipe, label)]
    facts = chosen[0][0]
    verdict = Verdict(
        verdict=overall([criterion.verdict for criterion in criteria]),
        encoder=encoder,
        label=label,
        answered={one.modality: one.answered for one in evidence},
        criteria=tuple(criteria),
        tolerances=recipe.model_dump(mode="json"),
        caution=str(facts.get("caution", "")),
        run=dict(
            Run(
                code_revision=code_revision(),
                data_digest=facts["run"]["data_digest"],
                recipe_digest=digest(recipe),
            )
        ),
    ).overridden(override)
    verdict.write(out)
    return verdict


def _shortcuts(folders: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    return [(folder, read_json(folder / SHORTCUTS)) for folder in folders]


def confirm(verdict: Verdict, scores: Path, findings: Path, shortcuts: Path | None = None) -> None:
    """Judge the evidence of one modality again, and compare: a verdict on other evidence is none.

    What an encoder gains over `pixels` is taken as it stands, since the floor's scores are not part of a release.

    Raises:
        UsageError: Head or audit is of another label than the verdict.
        CheckFailed: The evidence gives another verdict than the one that is told.
    """
    evidence = Evidence.read(scores, findings, verdict.label, shortcuts)
    recipe: Gate = parse(verdict.tolerances, Gate)
    if digest(recipe) != verdict.run["recipe_digest"]:
        raise CheckFailed("the verdict's tolerances are not those of the recipe that it names; run `hilum gate` again")
    again = judge(evidence, recipe, verdict.label)
    stands = [one for one in verdict.criteria if one.modality == evidence.modality]
    differs = [
        one.criterion
        for one, other in zip(stands, again, strict=False)
        if one != other and not one.criterion.startswith("gain")
    ]
    if differs or len(stands) != len(again):
        raise CheckFailed(
            f"the verdict of the gate does not follow from this evidence ({', '.join(differs) or evidence.modality}); "
            "run `hilum gate` on it again"
        )


def refuse(folder: Path) -> None:
    """Raise CheckFailed with what holds back the release whose verdict lies in a folder."""
    Verdict.read(folder).require()
