"""A volume as one request: its planes are asked for one by one, and their answers become one.

Encoders see planes, never volumes. Which planes a volume is cut into follows from the release that answers: those that
it was trained on, in its card's order. Where one of them is refused, so is the volume: an answer without it would have
rows that mean something else than in the answer before.

Shapes: P planes, D embedding dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.data.planes import Plane, decode_planes
from hilum.delivery.answering.routing import Refusal
from hilum.delivery.card import EMBEDDINGS, NAMES
from hilum.delivery.predictor import Release
from hilum.errors import ImageError

if TYPE_CHECKING:
    from hilum.delivery.desk import Answer

PLANES: Final = ("AXIAL", "CORONAL", "SAGITTAL")
MODALITY: Final = "MR"  # the only one that is imaged in planes here
_OF_A_PLANE: Final = ("out_of_distribution", "nearest", "seen")  # what an answer says of one image, not of all


def cut(content: bytes, releases: Mapping[str, Release], question: str) -> list[Plane]:
    """The planes of a volume that the release of its modality was trained on.

    Args:
        content: Of a NIfTI file.
        releases: By modality.
        question: `embeddings`, or a label.

    Raises:
        ImageError: The volume is damaged or too large, no release here is for planes, or a label is asked.
    """
    release = releases.get(MODALITY)
    views = [view for view in release.card.views if view in PLANES] if release is not None else []
    if not views:
        raise Refusal(
            "a volume was sent, but no release here was trained on its planes", "send an image as PNG, JPEG or DICOM"
        )
    if question != EMBEDDINGS:
        raise Refusal(
            f"{question.replace('_', ' ')} is asked of one image, and a volume was sent",
            "send one image, or ask for the volume's embeddings",
        )
    return decode_planes(content, views)


def joined(
    planes: Sequence[Plane], answers: "Sequence[Answer | ImageError]"
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """One body and the embeddings (P, D) from the answers to all planes.

    Raises:
        ImageError: One of the planes was refused, or taken for another modality.
    """
    bodies: list[dict[str, Any]] = []
    rows: list[NDArray[np.float32]] = []
    for plane, answer in zip(planes, answers, strict=True):
        named = f"the {plane.view} plane at {plane.position:g} of the volume"
        if isinstance(answer, Refusal):
            raise Refusal(f"{named}: {answer.wrong}", answer.right)
        if isinstance(answer, ImageError):
            raise ImageError(f"{named}: {answer}", answer.fault)
        if answer.body["modality"] != MODALITY:
            raise Refusal(
                f"{named} looks like an {NAMES[answer.body['modality']]}",
                f"if it is an {NAMES[MODALITY]}, declare it with the header X-Modality: {MODALITY}",
            )
        bodies.append(answer.body)
        rows.append(answer.values)
    z_PD = np.stack(rows)
    body: dict[str, Any] = {}
    for key, value in bodies[0].items():  # in the order of every answer's keys
        if key == "shape":
            body[key] = list(z_PD.shape)
        elif key == "embedding":
            body[key] = [one[key] for one in bodies]
            body["planes"] = [
                {"view": plane.view, "position": plane.position}
                | {said: one[said] for said in _OF_A_PLANE if said in one}
                for plane, one in zip(planes, bodies, strict=True)
            ]
        elif key not in _OF_A_PLANE:
            body[key] = value
    return body, z_PD
