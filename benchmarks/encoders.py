r"""All encoders beside each other on real images: what a probe reads from each, on patients that none of them has seen.

    python benchmarks/encoders.py --dataset nih --work /tmp/encoders
    python benchmarks/encoders.py --dataset oasis --work /tmp/encoders

nih     ChestX-ray14's sample; pretrained on its training patients and on all covid-chestxray and Kermany images
oasis   OASIS-1, pretrained on its training patients

With `--folds 5` (the default) there are five patient-disjoint parts, and every encoder is trained and probed five
times, each time without one of them, so that all images are answered for held out. `--folds 1` trains once, on the
dataset's own split: a fifth of the time, and intervals twice as wide. `--seeds 3` trains each of them three times.

Finished trainings in the work folder are kept, unfinished ones go on, so the command may be stopped and called again,
also for some `--encoders` at a time. The page docs/results/encoders-DATASET.md is written anew from what is finished;
what stands in it below the line for hand-written text is kept.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hilum.data import parquet, union
from hilum.data.ingest import content_digest, ingest
from hilum.data.store import FACTS, IMAGES, MANIFEST, Dataset, read_json, write_json
from hilum.errors import HilumError, TrainingError, UsageError
from hilum.identity import code_revision, digest_json
from hilum.judgement.probing import probes, tasks
from hilum.learning import embedding, training
from hilum.recipe import ENCODER_SECTIONS, Ingest, Preprocessing, Probe, Recipe, Train, digest, read

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where PYTHONSAFEPATH is set, as in the Makefile
import encoders_page as page

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "nih": "nih-chestxray14-1000",
    "covid_chestxray": "covid-chestxray-dataset",
    "kermany": "kermany-chest-xray",
    "oasis": "oasis-1",
}
ONLY_FOR_PRETRAINING = {"nih": ("covid_chestxray", "kermany"), "oasis": ()}
MODALITY = {"nih": "XR", "oasis": "MR"}
SEEDLESS = ("pixels", "imagenet")  # nothing in them is drawn, so another seed is the same encoder
TIMING = "timing.json"


@dataclass(frozen=True)
class Part:
    """One division of the cohort's patients.

    Attributes:
        fold: From 0.
        pretrained_on: The dataset that encoders are trained on (its train split).
        asked: The cohort alone, with the labels that are asked for, to be embedded and probed.
    """

    fold: int
    pretrained_on: Path
    asked: Path


def divided(cohort: Dataset, others: Iterable[Dataset], folds: int, seed: int, out: Path) -> list[Part]:
    """The cohort's patients divided for training and asking; the `others` are for training only."""
    fold_N = tasks.fold_of(cohort.manifest["patient_id"], folds, seed) if folds > 1 else None
    parts = []
    for fold in range(folds):
        table = cohort.manifest.copy()
        if fold_N is not None:
            table["split"] = pd.Series(np.where(fold_N == fold, "test", "train"), dtype="str")
        whole = rewritten(cohort, table, cohort.facts.labels, out / f"cohort-{fold}of{folds}")
        wanted = tuple(column.task for column in page.COLUMNS[cohort.facts.layout] if column.is_label)
        asked = rewritten(cohort, table, wanted, out / f"asked-{fold}of{folds}")
        if named := list(others):
            together = [whole, *(other.path for other in named)]
            sources = [other.facts.layout for other in named]
            whole = union.unite(together, out / f"united-{fold}of{folds}", as_train=sources).path
        unseen(Dataset.open(whole), Dataset.open(asked))
        parts.append(Part(fold, whole, asked))
    return parts


def rewritten(dataset: Dataset, table: pd.DataFrame, labels: Sequence[str], out: Path) -> Path:
    """The same images under another manifest, of whose columns these are the labels."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    parquet.write(table, out / MANIFEST)
    (out / IMAGES).symlink_to((dataset.path / IMAGES).resolve())
    name = content_digest(table, dataset.facts.preprocessing.size)
    write_json(out / FACTS, {**dataset.facts.model_dump(mode="json"), "digest": name, "labels": list(labels)})
    return out


def unseen(pretrained_on: Dataset, asked: Dataset) -> None:
    """Stop where a patient or picture that is asked for is in the train split that encoders see."""
    ours, theirs = asked.manifest, pretrained_on.manifest
    learnt = theirs[theirs["split"] == "train"]
    held_out = ours[ours["split"] == "test"]
    lead = f"{asked.facts.layout}:" if pretrained_on.facts.layout == union.LAYOUT else ""
    for column, prefix in (("patient_id", lead), ("image_id", lead), ("pixel_digest", "")):
        if not (prefix + ours[column]).isin(theirs[column]).all():
            raise TrainingError(f"{column} of the pretraining dataset are not those of the cohort: nothing is checked")
        if both := int((prefix + held_out[column]).isin(learnt[column]).sum()):
            raise TrainingError(f"{both} held-out images have a {column} that is also in the train split")


def answers(part: Part, section: Train, probe: Probe, work: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train, embed and probe one encoder; its held-out answers, and what its card and clock say."""
    name = f"{section.encoder.name}-{part.fold}-{section.seed}"
    data = Dataset.open(part.pretrained_on)
    out = work / f"{name}-{digest_json([data.facts.digest, digest(section), digest(probe)])[:12]}"
    if not (out / "probe" / probes.FACTS).is_file():
        timed(part.pretrained_on, section, out)
        embedding.run(part.asked, out / "encoder", out / "vectors")
        probes.run(part.asked, out / "vectors", probe, out / "probe", label=page.LABEL)
    card = embedding.read_card(out / "encoder")
    if card["n_images"] != len(data.rows(section.modality, ["train"])):
        raise TrainingError(f"{name} saw {card['n_images']} images, which is not the train split")
    found = parquet.read(out / "probe" / probes.PREDICTIONS)
    scores = pd.read_csv(out / "probe" / probes.SCORES)
    chance = scores.groupby("task")["chance"].first().to_dict()
    return found.assign(fold=part.fold), {**card, **read_json(out / TIMING), "chance": chance, "fold": part.fold}


def timed(data: Path, section: Train, out: Path) -> None:
    """Train, and note the wall time, added up over interruptions; less than it was where one came without warning."""
    encoder, clock = out / "encoder", out / TIMING
    out.mkdir(parents=True, exist_ok=True)
    before = read_json(clock) if clock.exists() else {"seconds": 0.0, "killed": 0}
    began = time.monotonic()
    write_json(clock, {"seconds": before["seconds"], "killed": before["killed"] + 1})
    try:
        training.run(data, section, encoder)
    finally:
        write_json(clock, {"seconds": before["seconds"] + time.monotonic() - began, "killed": before["killed"]})


def answered_by_all(
    parts: list[Part], recipe: Recipe, names: list[str], seeds: int, modality: str, work: Path
) -> tuple[dict[str, list[pd.DataFrame]], dict[str, list[dict[str, Any]]], dict[str, str]]:
    """For each encoder its answers seed by seed, its trainings, and why the encoders are left out that are."""
    found: dict[str, list[pd.DataFrame]] = {}
    cards: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    for name in names:
        section = recipe.train_of(name, modality)
        n_seeds = 1 if name in SEEDLESS else seeds
        try:
            for seed in range(n_seeds):
                told = section.model_copy(update={"seed": section.seed + seed})
                pieces = [answers(part, told, recipe.probe, work) for part in parts]
                found.setdefault(name, []).append(pd.concat([piece for piece, _ in pieces], ignore_index=True))
                cards.setdefault(name, []).extend(card for _, card in pieces)
        except HilumError as error:
            if name != "imagenet":  # the only one that may lack something that is no fault: its weights
                raise
            left_out[name] = str(error).replace(str(Path.home()), "~")
            continue
        minutes = [card["seconds"] / 60 for card in cards[name]]
        print(f"{name}: {len(minutes)} trainings of {np.mean(minutes):.1f} minutes, {max(minutes):.1f} at most")
    return found, cards, left_out


def ingested(layout: str, sources: Path, size: int, out: Path) -> Dataset:
    """One of the real image sets as a dataset folder."""
    section = Ingest(layout=layout, preprocessing=Preprocessing(size=size))
    dataset = ingest(sources / SOURCES[layout], out / layout, section)
    return with_complement(dataset, "dementia", out / f"{layout}-labelled") if layout == "oasis" else dataset


def with_complement(dataset: Dataset, label: str, out: Path) -> Dataset:
    """The same dataset with `no_LABEL` beside the label.

    `discern` weighs a pair by the labels that either has: by a single label, all who have it are alike, the others
    cannot be compared, and every weight is 1.
    """
    table = dataset.manifest.copy()
    table.insert(table.columns.get_loc(label) + 1, f"no_{label}", 1.0 - table[label])
    return Dataset.open(rewritten(dataset, table, (*dataset.facts.labels, f"no_{label}"), out))


def shortened(recipe: Recipe, epochs: int | None) -> Recipe:
    """The recipe with this many epochs for every encoder; as it is where none are named."""
    if epochs is None:
        return recipe
    each = {name: {**values, "epochs": epochs} for name, values in recipe.train_each.items()}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": epochs}), "train_each": each})


def run(options: argparse.Namespace) -> int:
    """Everything from the sources to the page; exit status 1 where a training took longer than `--minutes`."""
    recipe = shortened(read(options.recipe), options.epochs)
    in_recipe = [encoder.name for encoder in recipe.encoders]
    names = options.encoders.split(",") if options.encoders else in_recipe
    if strange := sorted(set(names) - set(in_recipe)):
        raise UsageError(f"{options.recipe} has no encoder {', '.join(strange)}; it has {', '.join(in_recipe)}")
    names = ["pixels", *(name for name in in_recipe if name in names and name != "pixels")]
    work = options.work / options.dataset / code_revision().replace("+", "-")
    size = recipe.ingest.preprocessing.size
    cohort = ingested(options.dataset, options.sources, size, work / "data")
    others = [ingested(name, options.sources, size, work / "data") for name in ONLY_FOR_PRETRAINING[options.dataset]]
    parts = divided(cohort, others, options.folds, recipe.probe.seed, work / "data")
    found, cards, left_out = answered_by_all(
        parts, recipe, names, options.seeds, MODALITY[options.dataset], work / "runs"
    )
    columns = [page.compare(column, found, options.replicates) for column in page.COLUMNS[options.dataset]]
    told = page.Told(
        dataset=options.dataset,
        command=command(options),
        folds=options.folds,
        seeds=options.seeds,
        replicates=options.replicates,
        minutes=options.minutes,
        cohort=cohort,
        others=tuple(others),
        recipe=recipe,
        cards=cards,
        left_out=left_out,
    )
    text = page.write(told, columns)
    target = options.page or (
        ROOT / "docs" / "results" / f"encoders-{options.dataset}.md" if options.epochs is None else work / "page.md"
    )
    page.replace(target, text)
    write_json(work / "answers.json", {column.column.task: column.facts() for column in columns})
    print(f"\n{text}\nwrote {target}")
    slow = {name for name in cards for card in cards[name] if card["seconds"] > 60 * options.minutes}
    if slow:
        print(f"longer than {options.minutes:g} minutes a training: {', '.join(sorted(slow))}", file=sys.stderr)
    return 1 if slow else 0


def command(options: argparse.Namespace) -> str:
    """The command that makes this page, without the paths of this machine."""
    words = ["python benchmarks/encoders.py --dataset", options.dataset]
    for name in ("folds", "seeds", "encoders", "epochs", "replicates"):
        if getattr(options, name) != PARSER.get_default(name):
            words += [f"--{name}", str(getattr(options, name))]
    return " ".join(words)


PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--dataset", choices=sorted(MODALITY), default="nih")
PARSER.add_argument("--sources", type=Path, default=ROOT / ".." / "shared" / "data", help="folder of the image sets")
PARSER.add_argument("--work", type=Path, default=Path("/tmp/hilum-encoders"), help="folder for data and trainings")
PARSER.add_argument("--recipe", type=Path, help="default: pipelines/recipes/encoders-DATASET.yaml")
PARSER.add_argument("--encoders", help=f"some of {','.join(ENCODER_SECTIONS)}; pixels, the floor, is always among them")
PARSER.add_argument("--folds", type=int, default=5, help="patient-disjoint parts; 1: the dataset's own split")
PARSER.add_argument("--seeds", type=int, default=1, help="trainings of each encoder in each part")
PARSER.add_argument(
    "--epochs", type=int, help="of every encoder, to try the command; the page stays in the work folder"
)
PARSER.add_argument("--replicates", type=int, default=10_000, help="of the patient bootstrap")
PARSER.add_argument("--minutes", type=float, default=10.0, help="that a training may take")
PARSER.add_argument("--page", type=Path, help="default: docs/results/encoders-DATASET.md")


def main(arguments: list[str] | None = None) -> int:
    """Read the options and run; an error is one sentence."""
    options = PARSER.parse_args(arguments)
    options.recipe = options.recipe or ROOT / "pipelines" / "recipes" / f"encoders-{options.dataset}.yaml"
    if options.folds < 1 or options.seeds < 1:
        PARSER.error("--folds and --seeds are at least 1")
    try:
        return run(options)
    except HilumError as error:
        print(f"encoders: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
