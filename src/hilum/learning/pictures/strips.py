"""What an embedding thinks an attribute looks like: pictures for a clinician, from any encoder that has a decoder.

reconstruct.png        films beside what their codes give back
interpolate.png        from one patient to another
along-<attribute>.png  films moved along the direction in which a linear probe finds an attribute
strips.json            the figures: the round trip's error, and how well each direction tells held-out patients apart

Directions are fitted on train patients; the films shown, and the probe's figures, are of test patients. Films are
numbered from 1 on every sheet; nothing else says whose they are. N: images, C: 1 channel, H x W: pixels, D: width of
an embedding.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum import progress
from hilum.data.store import Dataset, write_json
from hilum.errors import DatasetError, UsageError
from hilum.identity import Run, code_revision
from hilum.learning import embedding
from hilum.learning.engine.batches import blocks
from hilum.learning.pictures import directions, imaging, sheet
from hilum.learning.pictures.directions import Direction
from hilum.learning.pictures.imaging import Codes, Imager, Pixels, mixed
from hilum.learning.pictures.sheet import Row, Sheet

FACTS: Final = "strips.json"
STEPS_ALONG: Final = (-3, -2, -1, 0, 1, 2, 3)  # standard deviations of the probe's score
SHARES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the way from one patient to another
OTHER_NOISE: Final = 3  # draws of x_T beside the film's own
MAX_TRAIN: Final = 20_000  # train images on which a direction is fitted; a linear probe of 512 features needs no more


def run(
    dataset: Path,
    encoder_run: Path,
    out: Path,
    attributes: Sequence[str] = (),
    n: int = 6,
    steps: int = 250,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw the sheets.

    Args:
        dataset: A dataset folder with train and test patients.
        encoder_run: What `hilum train` wrote for an encoder with a decoder (`diffae`, `vae`).
        out: Where the pictures go; made where it does not exist.
        attributes: Labels, columns of two values, numbers, or `column=value`: see `directions.attribute`.
        n: Test patients that are shown, one film of each.
        steps: Of the walk between image and noise, of T = 1000; a divisor of it. More is closer, and slower.
        seed: Of the choice of patients, the noise, and the probes' folds and intervals.

    Returns:
        What strips.json says.

    Raises:
        UsageError: The encoder has no decoder, an attribute is unknown, or the steps do not divide T.
        DatasetError: The dataset does not fit the encoder, or has no test patients.
        TrainingError: `encoder_run` is not finished, or damaged.
    """
    if n < 1:
        raise UsageError(f"at least one patient is to be shown, not {n}")
    opened, card = Dataset.open(dataset), embedding.read_card(encoder_run)
    if card["size"] != opened.images.shape[-1]:
        raise DatasetError(
            f"the dataset's images are {opened.images.shape[-1]} pixels wide, but the encoder was trained on "
            f"{card['size']}; ingest with --size {card['size']}"
        )
    modality = card["modality"]
    train, test = opened.rows(modality, ["train"]), opened.rows(modality, ["test"])
    if len(train) == 0 or len(test) == 0:
        raise DatasetError(
            f"pictures need {modality} images of train and of test patients, but there are {len(train)} and {len(test)}"
        )
    random = np.random.default_rng(seed)
    train = np.sort(random.choice(train, size=min(MAX_TRAIN, len(train)), replace=False))
    asked = [directions.attribute(opened, name, train) for name in attributes]
    imager = imaging.load(encoder_run, steps)
    shown = _one_film_each(opened, test, n, random)
    identity = Run(
        code_revision=code_revision(), data_digest=opened.facts.digest, recipe_digest=card["run"]["recipe_digest"]
    )
    page = {"run": dict(identity), "caution": opened.facts.caution}
    out.mkdir(parents=True, exist_ok=True)
    (out / FACTS).unlink(missing_ok=True)

    x_NHW = np.ascontiguousarray(opened.images[shown])
    codes = imager.codes(x_NHW)
    back = imager.images(codes)
    errors = np.square(2.0 * (back - x_NHW / 255.0)).mean(axis=(1, 2))
    title = f"{card['encoder']} · {modality}"
    sheet.save(_reconstructed(imager, x_NHW, codes, back, errors, title, seed, page), out / "reconstruct.png")
    if len(shown) > 1:
        sheet.save(_interpolated(imager, x_NHW, codes, title, page), out / "interpolate.png")

    told: dict[str, Any] = {}
    if asked:
        z_train = _embedded(imager, opened, train, "embed train patients")
        z_test = _embedded(imager, opened, test, "embed test patients")
        patients = opened.manifest["patient_id"].to_numpy()
        for wanted in asked:
            try:
                found = directions.fit(z_train, wanted.y_N[train], patients[train], seed)
            except DatasetError as error:
                raise DatasetError(f"{wanted.name}: {error}") from error
            judged = directions.quality(found, wanted.kind, z_test, wanted.y_N[test], patients[test], seed)
            drawn = _along(imager, x_NHW, codes, found, wanted, judged, title, page)
            sheet.save(drawn, out / f"along-{_file_name(wanted.name)}.png")
            told[wanted.name] = {
                "kind": wanted.kind,
                "less": wanted.less,
                "more": wanted.more,
                "held_out": judged,
                "fitted": {"ridge": found.ridge, "n": found.n, "n_patients": found.n_patients},
            }
    facts = {
        "encoder": card["encoder"],
        "modality": modality,
        "size": card["size"],
        "steps": steps if imager.is_stochastic else None,
        "seed": seed,
        "shown": {"split": "test", "n": len(shown)},
        "round_trip_mse": {
            "scale": [-1, 1],
            "mean": float(errors.mean()),
            "largest": float(errors.max()),
            "n": len(errors),
        },
        "attributes": told,
        **page,
    }
    write_json(out / FACTS, facts)
    return facts


def _one_film_each(dataset: Dataset, rows: NDArray[np.int64], n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """One film of each of `n` patients, or of all where there are fewer, in random order."""
    patients = dataset.manifest["patient_id"].iloc[rows].to_numpy()
    order = random.permutation(len(rows))
    _, first = np.unique(patients[order], return_index=True)
    chosen: NDArray[np.int64] = rows[order[np.sort(first)[:n]]]
    return chosen


def _embedded(imager: Imager, dataset: Dataset, rows: NDArray[np.int64], what: str) -> NDArray[np.float32]:
    parts = [
        embedding.embed(imager.embedder, np.ascontiguousarray(dataset.images[rows[part]]), imager.where)
        for part in progress.track(list(blocks(len(rows))), what, unit="batch")
    ]
    return np.concatenate(parts)


def _reconstructed(
    imager: Imager,
    x_NHW: NDArray[np.uint8],
    codes: Codes,
    back: Pixels,
    errors: NDArray[np.floating],
    title: str,
    seed: int,
    page: dict[str, Any],
) -> Sheet:
    """Films, what their codes give back, the difference, and what z gives with other noise."""
    films = x_NHW / 255.0
    limit = sheet.limit_of(back - films)
    columns = ["film", "reconstruction", "difference"]
    lead = f"Mean squared error {errors.mean():.2g} on the scale from -1 to 1, {len(films)} test patients."
    others: list[Pixels] = []
    if codes.noise_NCHW is not None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(OTHER_NOISE):
            noise = torch.randn(codes.noise_NCHW.shape, generator=generator).to(imager.where)
            others.append(imager.images(Codes(codes.z_ND, noise), drawn=True))
        columns += [f"embedding,\nother noise {k + 1}" for k in range(OTHER_NOISE)]
        lead += (
            " The reconstruction uses both codes: the embedding z and the stochastic code x_T. On the right, z alone "
            "with random noise: what is the same in all three is what the embedding knows of the film."
        )
    rows = [
        Row(str(i + 1), [films[i], back[i], sheet.coloured(back[i] - films[i], limit), *(other[i] for other in others)])
        for i in range(len(films))
    ]
    return Sheet(f"{title}: reconstruction", lead, columns, rows, limit=limit, **page)


def _interpolated(imager: Imager, x_NHW: NDArray[np.uint8], codes: Codes, title: str, page: dict[str, Any]) -> Sheet:
    """From one patient to the next: z on the straight line, x_T on the sphere (Preechakul et al. 2022, section 5.3)."""
    firsts = list(range(0, len(x_NHW) - 1, 2))
    between = [
        mixed(Codes(codes.z_ND[i], _at(codes, i)), Codes(codes.z_ND[i + 1], _at(codes, i + 1)), share)
        for i in firsts
        for share in SHARES
    ]
    noises = [code.noise_NCHW for code in between if code.noise_NCHW is not None]
    together = Codes(torch.stack([code.z_ND for code in between]), torch.stack(noises) if noises else None)
    made = imager.images(together).reshape(len(firsts), len(SHARES), *x_NHW.shape[1:])
    films = x_NHW / 255.0
    rows = [Row(f"{i + 1} to {i + 2}", [films[i], *made[k], films[i + 1]]) for k, i in enumerate(firsts)]
    columns = ["film", *(f"{share:.0%}" for share in SHARES), "other film"]
    lead = (
        "Between two test patients, by share of the way. A step that looks like no film at all, or a sudden change, "
        "says that the embedding has a gap there."
    )
    return Sheet(f"{title}: from one patient to another", lead, columns, rows, **page)


def _at(codes: Codes, i: int) -> Tensor | None:
    return None if codes.noise_NCHW is None else codes.noise_NCHW[i]


def _along(
    imager: Imager,
    x_NHW: NDArray[np.uint8],
    codes: Codes,
    found: Direction,
    wanted: directions.Attribute,
    judged: dict[str, Any],
    title: str,
    page: dict[str, Any],
) -> Sheet:
    """Films moved along a direction, with x_T held, and the difference that the move makes."""
    z_ND = codes.z_ND.double().cpu().numpy()
    scores_N = found.score(z_ND)
    moved = np.stack([found.moved(z_ND, by) for by in STEPS_ALONG], axis=1)
    z = torch.from_numpy(moved.reshape(-1, z_ND.shape[1]).astype(np.float32)).to(imager.where)
    noise = None if codes.noise_NCHW is None else codes.noise_NCHW.repeat_interleave(len(STEPS_ALONG), dim=0)
    made = imager.images(Codes(z, noise)).reshape(len(x_NHW), len(STEPS_ALONG), *x_NHW.shape[1:])
    differences = made - made[:, STEPS_ALONG.index(0)][:, None]
    limit = sheet.limit_of(differences)
    rows = []
    for i, film in enumerate(x_NHW / 255.0):
        rows.append(Row(f"{i + 1}\nscore {scores_N[i]:+.1f}", [film, *made[i]]))
        coloured = [sheet.coloured(d, limit) if by else "" for d, by in zip(differences[i], STEPS_ALONG, strict=True)]
        rows.append(Row("", ["difference\nfrom 0", *coloured], follows=True))
    columns = ["film", *("0\nas it is" if by == 0 else f"{by:+d} s.d." for by in STEPS_ALONG)]
    columns[1], columns[-1] = f"{wanted.less}\n{columns[1]}", f"{wanted.more}\n{columns[-1]}"
    lead = (
        f"Films of test patients, moved by standard deviations of a linear probe's score. {_trust(judged)} "
        "What moves with the attribute in the train patients moves here, whether or not it causes it."
    )
    return Sheet(f"{title}: along {wanted.name}", lead, columns, rows, limit=limit, **page)


def _trust(judged: dict[str, Any]) -> str:
    """How well the probe does on held-out patients, in a sentence."""
    counted = f"{judged['n']} films of {judged['n_patients']} test patients"
    if judged["value"] is None:
        return f"How well the probe does is not known: {judged['remark']} ({counted})."
    chance, name = (0.5, "AUROC") if judged["measure"] == "auroc" else (0.0, "correlation")
    figures = f"{name} {judged['value']:.2f} (95% interval {judged['low']:.2f} to {judged['high']:.2f}; {counted})"
    if judged["low"] > chance:
        return f"The probe on held-out patients: {figures}."
    return f"The probe does not tell held-out patients apart, so trust nothing here: {figures}."


def _file_name(attribute: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", attribute).strip("-")
