"""One small section per encoder, for tests that ask something of all of them; 32-pixel images."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from weights_files import imagenet_state

from hilum.learning import encoders
from hilum.recipe import Augment, Backbone, Diffae, Discern, Imagenet, MedAug, Moco, Pixels, Section, Supervised, Vae

SIZE = 32
MILD = Augment(  # the made images are mostly noise, of which stronger views leave nothing in common
    crop_area=(0.9, 1.0), rotate_degrees=3, brightness=0.05, contrast=0.1, gamma=0.1, noise=0.01, blur=0
)
STILL = Augment(  # views that are the images
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    rotate_degrees=0,
    brightness=0,
    contrast=0,
    gamma=0,
    blur=0,
    noise=0,
)
CONTRAST = {"backbone": Backbone(width=8), "projection_dim": 16, "queue_size": 24, "augment": MILD}
FOLDER = Path(tempfile.mkdtemp(prefix="hilum-weights-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
FROZEN = Backbone(name="resnet18", width=8, stem="7x7", weights=str(FOLDER / "resnet18.pth"))
torch.save(imagenet_state(FROZEN), FROZEN.weights)
SMALL: dict[str, Section] = {
    "vae": Vae(latent=8, channels=(8, 16, 16)),
    "diffae": Diffae(
        semantic=16,
        backbone=Backbone(width=8, norm="group"),
        channels=(16, 16),
        blocks=1,
        attention_levels=(),
        dropout=0,
    ),
    "moco": Moco(**CONTRAST),
    "medaug": MedAug(**CONTRAST),
    "discern": Discern(**CONTRAST, weight_labels=("no_finding",)),
    "imagenet": Imagenet(backbone=FROZEN),
    "supervised": Supervised(backbone=Backbone(width=8), augment=MILD),
    "pixels": Pixels(components=8),
}


def takes_steps(name: str) -> bool:
    return any(parameter.requires_grad for parameter in encoders.build(SMALL[name], SIZE).parameters())


BY_STEPS = [name for name in SMALL if takes_steps(name)]
