"""The people of the phantom: who they are, what ails them, when they are imaged, and what each image shows.

Every patient has random numbers of their own, drawn from (seed, patient): a larger cohort begins with the same people,
and a switched-off site effect changes nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.data.anatomy import causes
from hilum.data.anatomy.brain import Brain, axial, coronal, sagittal
from hilum.data.anatomy.chest import Chest, frontal, lateral
from hilum.data.anatomy.shapes import Exposure, Pose, expose

CHEST_LABELS: Final = ("no_finding", "pneumonia", "cardiomegaly", "pleural_effusion")
LABELS: Final = (*CHEST_LABELS, "dementia")
COVARIATES: Final = (*causes.VITALS, *causes.LABS)

Sex = Literal["F", "M"]


@dataclass(frozen=True)
class Patient:
    """One person at the first study."""

    patient_id: str
    sex: Sex
    age_years: float
    site: str
    seed: int
    girth: float
    breast: float
    heart: float
    head: float
    ventricles: float
    demented: bool


@dataclass(frozen=True)
class Shot:
    """One image: its row of the cohort's table, and all that is needed to draw it.

    Attributes:
        row: Manifest columns, labels, covariates, and `cause_...` columns.
        body: What is drawn.
        pose: How it lies in the frame.
        exposure: How it becomes grey values.
    """

    row: dict[str, Any]
    body: Chest | Brain
    pose: Pose
    exposure: Exposure

    def draw(self, size: int) -> NDArray[np.uint8]:
        """The image: uint8, (size, size)."""
        view = self.row["view"]
        if isinstance(self.body, Chest):
            if view == "LATERAL":
                return expose(lateral(self.body, size, self.pose), self.exposure)
            return expose(frontal(self.body, size, self.pose, view == "AP"), self.exposure)
        plane = {"AXIAL": axial, "CORONAL": coronal, "SAGITTAL": sagittal}[view]
        return expose(plane(self.body, size, self.pose), self.exposure)


@dataclass
class _Study:
    """One study while it is made up."""

    patient: Patient
    modality: str
    order: int
    days: float
    known: dict[str, float] = field(default_factory=dict)  # labels and covariates as written down
    truth: dict[str, Any] = field(default_factory=dict)  # `cause_...`

    @property
    def age_years(self) -> float:
        return self.patient.age_years + self.days / 365.25

    @property
    def decades(self) -> float:
        """Decades beyond 50 years."""
        return (self.age_years - 50) / 10


def shots(patients: int, seed: int, site_shift: bool = True, site_contrast: bool = True) -> Iterator[Shot]:
    """Every image of the cohort, patient by patient, study by study."""
    for number in range(patients):
        random = np.random.default_rng([seed, number])
        patient = _patient(number, random)
        fate = random.random()
        if fate < 1 - causes.SHARE_MR_ONLY:
            yield from _chest_studies(patient, random, site_shift, site_contrast)
        random = np.random.default_rng([seed, number, 1])
        if fate >= causes.SHARE_XR_ONLY:
            yield from _brain_studies(patient, random, site_shift, site_contrast)


def _patient(number: int, random: np.random.Generator) -> Patient:
    woman = bool(random.random() < causes.SHARE_OF_WOMEN)
    young, old = causes.ADULT_AGES_YEARS
    age = float(np.clip(random.normal(57, 18), young, old))
    faint = 0.4 if random.random() < 0.1 else 0.0
    shadow = float(random.uniform(*causes.BREAST_IN_WOMEN))
    size = causes.SIZE_OF_WOMEN if woman else 1.0
    risk = causes.DEMENTIA_AT_75_YEARS * 2 ** (min(age - 75, 0) / causes.DEMENTIA_HALVES_IN_YEARS)
    return Patient(
        patient_id=f"phantom-{number:04d}",
        sex="F" if woman else "M",
        age_years=round(age, 1),
        site="north" if random.random() < causes.SHARE_NORTH else "south",
        seed=int(random.integers(2**31)),
        girth=size * float(np.clip(random.normal(1.0, 0.05), 0.86, 1.12)),
        breast=shadow if woman else faint * shadow,
        heart=float(random.normal(1.0, 0.06)),
        head=float((1 + size) / 2 * random.normal(1.0, 0.02)),
        ventricles=float(np.exp(random.normal(0, 0.16))),
        demented=bool(random.random() < risk),
    )


def _chest_studies(patient: Patient, random: np.random.Generator, shift: bool, contrast: bool) -> Iterator[Shot]:
    day, before = 0.0, False
    for order in range(int(random.choice([2, 3, 4], p=[0.25, 0.35, 0.40]))):
        study = _Study(patient, "XR", order, day)
        chest = _chest(study, before, random)
        before = bool(study.truth["cause_pneumonia"])
        ill = not study.truth["cause_no_finding"]
        _write_down(study, CHEST_LABELS, random)
        _measure(study, ill, random)
        ap = bool(random.random() < (causes.AP_WHEN_ILL if ill else causes.AP_WHEN_WELL))
        leads = bool(random.random() < causes.LEADS_IN_AP)
        views = ["AP" if ap else "PA"]
        if random.random() < causes.LATERAL_WITH_PA and not ap:
            views.append("LATERAL")
        for view in views:
            drawn = Chest(**{**chest, "leads": leads and view == "AP"})
            yield _shot(study, view, drawn, random, shift, contrast)
        day += float(np.round(random.choice([random.uniform(2, 12), random.uniform(60, 700)])))


def _chest(study: _Study, pneumonia_before: bool, random: np.random.Generator) -> dict[str, Any]:
    """Draw what ails the chest on the day, note it as truth, and return the arguments of `Chest`."""
    patient, decades = study.patient, study.decades
    chance = causes.PNEUMONIA_BASE + causes.PNEUMONIA_PER_DECADE * decades + causes.PNEUMONIA_AGAIN * pneumonia_before
    pneumonia = bool(random.random() < chance)
    severity = float(random.uniform(0, 1))
    chance = causes.EFFUSION_BASE + causes.EFFUSION_WITH_PNEUMONIA * pneumonia
    effusion = float(random.uniform(*causes.EFFUSION_HEIGHTS)) if random.random() < chance else 0.0
    # The heart is the patient's own: its seed decides, and only age moves the threshold.
    own = np.random.default_rng(patient.seed + 7).random()
    cardiomegaly = bool(own < causes.CARDIOMEGALY_BASE + causes.CARDIOMEGALY_PER_DECADE * decades)
    mild, grave = causes.PNEUMONIA_CONTRAST
    seen = (mild + (grave - mild) * severity) * (causes.PNEUMONIA_CONTRAST_IN_WOMEN if patient.sex == "F" else 1.0)
    side = "right" if random.random() < 0.55 else "left"
    study.truth = {
        "cause_pneumonia": int(pneumonia),
        "cause_cardiomegaly": int(cardiomegaly),
        "cause_pleural_effusion": int(effusion > 0),
        "cause_no_finding": int(not (pneumonia or cardiomegaly or effusion)),
        "cause_pneumonia_severity": round(severity, 3) if pneumonia else 0.0,
        "cause_pneumonia_contrast": round(seen, 4) if pneumonia else 0.0,
        "cause_pneumonia_side": side if pneumonia else "",
    }
    calcified = float(np.clip((decades - 1) * 0.3 + random.normal(0, 0.1), 0, 1))
    return {
        "seed": patient.seed,
        "girth": patient.girth * float(random.normal(1, 0.01)),
        "inspiration": float(random.normal(0, 0.035)),
        "heart": patient.heart
        * (1 + causes.HEART_PER_DECADE * decades)
        * (causes.CARDIOMEGALY_HEART if cardiomegaly else 1.0),
        "aorta": float(np.clip(1 + 0.08 * decades, 0.75, 1.5)),
        "calcification": calcified,
        "kyphosis": float(np.clip(0.25 + 0.15 * decades, 0, 1)),
        "bone": float(np.clip(1.05 - 0.06 * decades, 0.7, 1.25)),
        "breast": patient.breast,
        "pneumonia": seen if pneumonia else 0.0,
        "pneumonia_side": side,
        "pneumonia_at": (float(random.uniform(0.1, 0.9)), float(random.uniform(0.35, 0.95))),
        "pneumonia_size": float(random.uniform(0.14, 0.26)),
        "effusion": effusion,
        "effusion_side": side if pneumonia else ("right" if random.random() < 0.5 else "left"),
    }


def _brain_studies(patient: Patient, random: np.random.Generator, shift: bool, contrast: bool) -> Iterator[Shot]:
    day = 0.0
    for order in range(int(random.choice([1, 2, 3], p=[0.55, 0.35, 0.10]))):
        study = _Study(patient, "MR", order, day)
        decades = study.decades
        ventricles = patient.ventricles * (1 + causes.VENTRICLES_PER_DECADE * decades)
        atrophy = 0.22 + causes.ATROPHY_PER_DECADE * decades + float(random.normal(0, 0.05))
        study.truth = {"cause_dementia": int(patient.demented)}
        _write_down(study, ("dementia",), random)
        brain = Brain(
            seed=patient.seed,
            size=patient.head,
            ventricles=float(np.clip(ventricles + causes.DEMENTIA_VENTRICLES * patient.demented, 0.4, 2.4)),
            atrophy=float(np.clip(atrophy + causes.DEMENTIA_ATROPHY * patient.demented, 0, 1)),
            asymmetry=float(random.normal(0, 0.06)),
            slice_offset=float(np.clip(random.normal(0, 0.4), -1, 1)),
        )
        for view in ("AXIAL", "CORONAL", "SAGITTAL"):
            yield _shot(study, view, brain, random, shift, contrast)
        day += float(np.round(random.uniform(300, 900)))


def _write_down(study: _Study, labels: tuple[str, ...], random: np.random.Generator) -> None:
    """Labels as a report would give them: some wrong, some missing."""
    for name in labels:
        value = float(study.truth[f"cause_{name}"])
        wrong, unknown = random.random(2)
        said = 1 - value if wrong < causes.LABEL_NOISE else value
        study.known[name] = np.nan if unknown < causes.LABEL_UNKNOWN else said


def _measure(study: _Study, ill: bool, random: np.random.Generator) -> None:
    """Vital signs and laboratory values that follow the disease; the ill are measured more, and south less."""
    severity = float(study.truth["cause_pneumonia_severity"])
    affected = 0.35 + 0.65 * severity if study.truth["cause_pneumonia"] else 0.0
    fluid = 0.2 * study.truth["cause_pleural_effusion"]
    eager = causes.SOUTH_MEASURES if study.patient.site == "south" else 1.0
    for group, chances in ((causes.VITALS, causes.VITALS_MEASURED), (causes.LABS, causes.LABS_MEASURED)):
        measured = bool(random.random() < chances["ill" if ill else "well"] * eager)
        for name, (healthy, added, spread) in group.items():
            noise, dropped = float(random.standard_normal()), bool(random.random() < 0.05)
            if name == "crp_mg_per_l":
                value = (healthy + added * affected) * float(np.exp(spread * noise))
            else:
                value = healthy + added * (affected + fluid) + spread * noise
            if name == "o2_saturation_pct":
                value = min(value, 100.0)
            study.known[name] = round(max(value, 0.3), 1) if measured and not dropped else np.nan


def _shot(
    study: _Study, view: str, body: Chest | Brain, random: np.random.Generator, site_shift: bool, site_contrast: bool
) -> Shot:
    patient = study.patient
    moved = causes.SITE_SHIFT if site_shift and patient.site == "south" else 0.0
    dx, dy, turn, grow, gain, offset, gamma, noise = random.standard_normal(8)
    pose = Pose(
        shift_x=causes.JITTER_SHIFT * float(dx) + moved,
        shift_y=causes.JITTER_SHIFT * float(dy),
        rotate_degrees=causes.JITTER_DEGREES * float(turn),
        scale=float(np.exp(causes.JITTER_SCALE * grow)),
    )
    exposure = Exposure(
        gain=float(np.exp(0.07 * gain)) * (causes.SITE_GAIN[patient.site] if site_contrast else 1.0),
        offset=0.02 * float(offset),
        gamma=float(np.exp(0.10 * gamma)) * (causes.SITE_GAMMA[patient.site] if site_contrast else 1.0),
        noise=causes.NOISE[study.modality] * float(np.exp(0.2 * noise)),
        seed=int(random.integers(2**31)),
    )
    study_id = f"{patient.patient_id}-{study.modality.lower()}{study.order}"
    row: dict[str, Any] = {
        "image_id": f"{study_id}-{view.lower()}",
        "patient_id": patient.patient_id,
        "study_id": study_id,
        "study_order": study.order,
        "days": study.days,
        "modality": study.modality,
        "view": view,
        "site": patient.site,
        "source": "phantom",
        "age_years": round(study.age_years, 1),
        "sex": patient.sex,
        **{name: study.known.get(name, np.nan) for name in (*LABELS, *COVARIATES)},
        **study.truth,
        "cause_shift_x": round(pose.shift_x, 5),
        "cause_shift_y": round(pose.shift_y, 5),
        "cause_rotate_degrees": round(pose.rotate_degrees, 3),
    }
    return Shot(row, body, pose, exposure)
