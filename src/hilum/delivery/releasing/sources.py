"""What a release is made of, opened and seen to belong together: dataset, encoder, head, evidence, verdict.

Nothing is exported that the gate has not let pass, unless somebody answers for it by name; and the verdict must follow
from the very evidence that goes into the release.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hilum.data.store import Dataset, read_json
from hilum.delivery.card import GateCard, Mitigated
from hilum.delivery.cards import cohort
from hilum.delivery.dossier import MITIGATION
from hilum.errors import DatasetError, UsageError
from hilum.identity import Run, code_revision, digest_bytes, digest_file
from hilum.judgement.fusion import head as fused
from hilum.judgement.fusion.head import FusedHead
from hilum.judgement.gate import verdict as verdicts
from hilum.judgement.gate.criteria import NOT_ASKED
from hilum.judgement.gate.evidence import AUDIT, SHORTCUTS
from hilum.judgement.gate.override import Override
from hilum.judgement.gate.verdict import VERDICT, Verdict
from hilum.judgement.probing import head as heads
from hilum.judgement.probing.head import Head
from hilum.learning import embedding
from hilum.recipe import Export, digest

VALIDATION: Final = "validation.json"  # in the evidence; the validation's own folder calls it verdict.json
COHORT: Final = "cohort.json"
JUDGED: Final = ("scores.csv", "head.json", AUDIT, "fairness.csv", SHORTCUTS, VERDICT, VALIDATION)


@dataclass(frozen=True)
class Judged:
    """The folders of judgement that a release rests on.

    Attributes:
        scores: What `hilum probe` wrote; its head answers for the label. Embeddings only without it.
        findings: What `hilum audit` wrote.
        shortcuts: The folder of shortcuts.json; looked for beside the audit and the probe where None.
        verdict: The folder of the gate's verdict.json.
        validation: What `hilum validate` wrote.
        override: Who releases it although the gate did not let it pass, or was not asked.
    """

    scores: Path | None = None
    findings: Path | None = None
    shortcuts: Path | None = None
    verdict: Path | None = None
    validation: Path | None = None
    override: Override | None = None


@dataclass(frozen=True)
class Sources:
    """What a release is made of.

    Attributes:
        dataset: The dataset that the encoder was trained on.
        encoder_run: What `hilum train` wrote.
        facts: The card of the encoder run.
        recipe: The recipe's section.
        judged: The folders of judgement.
        verdict: Of the gate, with the override where there is one.
    """

    dataset: Dataset
    encoder_run: Path
    facts: dict[str, Any]
    recipe: Export
    judged: Judged
    verdict: Verdict

    @classmethod
    def open(cls, dataset: Path, encoder_run: Path, recipe: Export, judged: Judged) -> "Sources":
        """Open everything, and see that it belongs together and may be exported.

        Raises:
            UsageError: The encoder is not the one that the recipe releases, or there is neither a verdict nor an
                override.
            DatasetError: Something was made from another dataset.
            CheckFailed: The gate did not let it pass, or its verdict is on other evidence.
        """
        opened, facts = Dataset.open(dataset), embedding.read_card(encoder_run)
        if facts["encoder"] != recipe.encoder:
            raise UsageError(
                f"the run is of the encoder {facts['encoder']!r}, but the recipe releases {recipe.encoder!r}; "
                f"set export.encoder to {facts['encoder']}"
            )
        if facts["run"]["data_digest"] != opened.facts.digest:
            raise DatasetError("the encoder was trained on another dataset than the one named; name that one")
        if judged.validation is not None:
            _of_this_data(read_json(judged.validation / VERDICT), opened, "validation")
        return cls(opened, encoder_run, facts, recipe, judged, _verdict(opened, facts, recipe, judged))

    @property
    def name(self) -> str:
        """Of the release."""
        return f"{self.modality.lower()}-{self.facts['encoder']}"

    @property
    def modality(self) -> str:
        """XR or MR."""
        return str(self.facts["modality"])

    @property
    def gate(self) -> GateCard:
        """What the card says of the gate."""
        return GateCard(verdict=self.verdict.of(self.modality), override=self.verdict.override)

    @property
    def mitigation(self) -> Mitigated | None:
        """What the head was fitted with; None where with nothing, or where there is no head."""
        return Mitigated.of(heads.facts(self.judged.scores)) if self.judged.scores is not None else None

    @cached_property
    def evidence(self) -> dict[str, bytes]:
        """The files of judgement that there are, by name, and what the dataset is made of."""
        places = [self.judged.scores, self.judged.findings, self.judged.shortcuts]
        found = {
            name: path.read_bytes()
            for folder in places
            if folder is not None
            for name in JUDGED
            if name not in (VERDICT, VALIDATION) and (path := folder / name).is_file()
        }
        if self.judged.validation is not None:
            found[VALIDATION] = (self.judged.validation / VERDICT).read_bytes()
        found[VERDICT] = _json(self.verdict.model_dump(mode="json"))
        return {name: found[name] for name in JUDGED if name in found} | {COHORT: _json(cohort.describe(self.dataset))}

    def rests_on(self) -> dict[str, str | None]:
        """The facts of the dossier, in the order of the way of the data."""
        weights = self.judged.scores / heads.WEIGHTS if self.judged.scores is not None else None
        judged = {name: digest_bytes(content) for name, content in self.evidence.items()}
        return {
            "source_revision": self.dataset.facts.source_revision,
            "source_digest": self.dataset.facts.source_digest,
            **self.facts["run"],
            "encoder_weights": digest_file(self.encoder_run / embedding.WEIGHTS),
            "encoder_card": digest_file(self.encoder_run / embedding.CARD),
            "head_weights": digest_file(weights) if weights is not None and weights.is_file() else None,
            MITIGATION: str(self.mitigation) if self.mitigation is not None else None,
            "export_recipe_digest": digest(self.recipe),
            "export_code_revision": code_revision(),
            **{f"judged_{name}": judged.get(name) for name in JUDGED},
            **self.gate.facts(),
        }

    def head(self) -> tuple[Head | FusedHead | None, str]:
        """The head and no reason, or no head and the reason why."""
        if self.judged.scores is None:
            return None, "it was exported without a head"
        said = heads.facts(self.judged.scores)
        if said["label"] != self.recipe.label:
            raise UsageError(f"the head answers for {said['label']!r}, but the recipe releases {self.recipe.label!r}")
        made_of = (said["encoder"], said["modality"], said["run"]["data_digest"])
        if made_of != (self.facts["encoder"], self.modality, self.facts["run"]["data_digest"]):
            raise DatasetError(f"the head belongs to {made_of[1]} {made_of[0]} or other data, not to this encoder run")
        if not said["answered"]:
            return None, str(said["why"])
        head = fused.load(self.judged.scores)
        width = head.dim if isinstance(head, FusedHead) else len(head.weight)
        if width != self.facts["dim"]:
            raise DatasetError(
                f"the head has {width} weights, but the encoder {self.facts['dim']} dimensions; probe again"
            )
        return head, ""


def _verdict(dataset: Dataset, facts: dict[str, Any], recipe: Export, judged: Judged) -> Verdict:
    """The gate's verdict on this release, or the override that stands in its place."""
    if judged.verdict is None:
        if judged.override is None:
            raise UsageError(
                "a release needs the gate's verdict (--gate FOLDER, which `hilum gate` writes), or somebody who "
                "answers for it (--override NAME --reason TEXT)"
            )
        return _without_gate(dataset, facts, recipe, judged.override)
    found = Verdict.read(judged.verdict).overridden(judged.override)
    modality = facts["modality"]
    if (found.encoder, found.label) != (recipe.encoder, recipe.label) or modality not in found.answered:
        raise UsageError(
            f"the verdict is on {found.encoder} for {found.label} ({', '.join(found.answered)}), but the release is of "
            f"{recipe.encoder} for {recipe.label} ({modality}); run `hilum gate` on it"
        )
    _of_this_data(found.model_dump(), dataset, "verdict")
    found.require()
    if judged.scores is None or judged.findings is None:
        raise UsageError("the verdict rests on a probe and an audit; name them with --probe and --audit")
    verdicts.confirm(found, judged.scores, judged.findings, judged.shortcuts)
    return found


def _without_gate(dataset: Dataset, facts: dict[str, Any], recipe: Export, override: Override) -> Verdict:
    """What stands in the release where no gate was run: nothing was asked, and somebody answers for that."""
    run = Run(code_revision=code_revision(), data_digest=dataset.facts.digest, recipe_digest=digest(recipe))
    return Verdict(
        verdict=NOT_ASKED,
        encoder=recipe.encoder,
        label=recipe.label,
        answered={str(facts["modality"]): False},
        criteria=(),
        override=override,
        tolerances={},
        caution=dataset.facts.caution,
        run=dict(run),
    )


def _of_this_data(said: dict[str, Any], dataset: Dataset, what: str) -> None:
    if said["run"]["data_digest"] != dataset.facts.digest:
        raise DatasetError(f"the {what} is of another dataset than the one named; make it anew for this one")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
