"""The encoders: one section each, found by its `name`."""

from typing import Annotated, Literal

from pydantic import Field

from hilum.recipe.section import Section


class Augment(Section):
    """Random views of an X-ray or MRI slice for contrastive learning; batched tensor code, one draw per image.

    METHOD: Sowrirajan et al. 2021 (MoCo-CXR) rotate by 10 degrees, flip and crop; a horizontal flip destroys
    laterality, so it can be switched off.
    """

    crop_area: tuple[float, float] = Field((0.5, 1.0), description="Share of the image's area that a crop keeps.")
    crop_aspect: tuple[float, float] = (0.85, 1.18)
    rotate_degrees: float = Field(10.0, ge=0, le=180)
    hflip: float = Field(0.0, ge=0, le=1, description="Probability of a left-right flip.")
    vflip: float = Field(0.0, ge=0, le=1)
    brightness: float = Field(0.2, ge=0, description="Additive, uniform in +- this share of the grey range.")
    contrast: float = Field(0.3, ge=0, description="Multiplicative about the mean, uniform in 1 +- this.")
    gamma: float = Field(0.3, ge=0, description="Exponent log-uniform in exp(+- this).")
    blur_sigma_px: float = Field(1.0, ge=0)
    blur: float = Field(0.3, ge=0, le=1, description="Probability of a Gaussian blur.")
    noise: float = Field(0.03, ge=0, description="Largest standard deviation of additive Gaussian noise, on 0-1.")


class Backbone(Section):
    """The convolutional network from an image to features."""

    name: Literal["resnet_small", "resnet18", "resnet50", "densenet121"] = "resnet_small"
    width: int = Field(
        32, ge=8, description="Channels of a ResNet's first stage (64 in the paper); growth rate of a DenseNet (32)."
    )
    norm: Literal["group", "batch"] = "batch"
    stem: Literal["3x3", "7x7"] = Field("3x3", description="3x3 for about 64 pixels; 7x7, which halves twice, for 224.")
    weights: str = Field(
        "",
        description="A file of ImageNet weights to begin with; `imagenet` for the published ones; random where empty.",
    )


class Moco(Section):
    """MoCo v2: He et al. 2020 (momentum contrast), Chen et al. 2020 (MLP head, stronger augmentation)."""

    name: Literal["moco"] = "moco"
    backbone: Backbone = Backbone()
    projection_dim: int = Field(128, ge=8)
    queue_size: int = Field(4096, ge=1, description="K: negatives kept; wraps around, filled before it is used.")
    momentum: float = Field(0.99, ge=0, le=1, description="m of the key encoder; .999 suits long runs.")
    temperature: float = Field(0.2, gt=0)
    key_groups: int = Field(
        2, ge=1, description="Shuffled groups of a global batch whose keys are normalised apart; a multiple of workers."
    )
    augment: Augment = Augment()


class Pairing(Section):
    """Which other image of a patient is the positive of an image: Vu et al. 2021 (MedAug)."""

    within: Literal["patient", "study"] = Field("patient", description="Same study too, or only the same patient.")
    laterality: Literal["any", "same", "distinct"] = Field(
        "any", description="Frontal or lateral, as the image; for MRI, its plane."
    )


class MedAug(Moco):
    """MedAug: Vu et al. 2021. Momentum contrast whose positives are other images of the same patient."""

    name: Literal["medaug"] = "medaug"  # type: ignore[assignment]
    pairing: Pairing = Pairing()


class Discern(MedAug):
    """DisCeRn: MedAug with negatives weighted by how much the diseases of two patients differ."""

    name: Literal["discern"] = "discern"  # type: ignore[assignment]
    mode: Literal["exp", "mass"] = Field("exp", description="Graded Jaccard distance, or equations 5 and 6 as printed.")
    beta: float = Field(1.0, ge=0, description="Mode exp: an additive margin of temperature * beta; 0 is no weighting.")
    hard_share: float = Field(0.9, gt=0, lt=1, description="Mode mass: share of the weight on different diseases.")
    weight_labels: tuple[str, ...] = Field(
        (), description="Labels whose agreement is compared; all but the target and its kin where empty."
    )
    unknown_labels: Literal["absent", "left_out"] = Field(
        "absent", description="What is not mentioned is taken for absent; or two images are compared without it."
    )
    target_labels: tuple[str, ...] = Field(
        ("pneumonia", "lung_opacity", "consolidation", "infiltration"),
        description="What will be predicted, and what nearly says it; weighting by these would leak the answer.",
    )
    allow_overlap: bool = Field(False, description="Weight by a target label all the same, knowing that it leaks.")


class Hessian(Section):
    """The Hessian penalty: Peebles et al. 2020, for directions of the embedding that act independently."""

    weight: float = Field(0.0, ge=0, description="0 is off.")
    k: int = Field(2, ge=2, description="Random directions per estimate.")
    epsilon: float = Field(0.1, gt=0, description="Step of the second difference.")
    reduction: Literal["max", "mean", "sum"] = Field("max", description="Over the elements of an activation.")
    layers: tuple[str, ...] = Field((), description="Names of modules whose outputs are penalised; the output if none.")
    every_n_steps: int = Field(1, ge=1, description="Its weight is multiplied by as much.")
    images: int = Field(8, ge=1, description="Of the batch, how many are used: an estimate costs 2 k + 1 passes.")


class Vae(Section):
    """Variational autoencoder: Kingma and Welling 2014."""

    name: Literal["vae"] = "vae"
    latent: int = Field(128, ge=2)
    channels: tuple[int, ...] = Field((32, 64, 128, 256), min_length=1, description="Of each stage; each stage halves.")
    norm: Literal["group", "batch"] = "batch"
    reconstruction: Literal["mse", "l1"] = "mse"
    kl_weight: float = Field(1.0, ge=0, description="beta of Higgins et al. 2017, relative to the summed error.")
    kl_warmup_share: float = Field(0.2, ge=0, le=1, description="Of all steps, over which beta rises from 0.")
    hessian: Hessian = Hessian()
    augment: Augment | None = None


class Diffae(Section):
    """Diffusion autoencoder: Preechakul et al. 2022."""

    name: Literal["diffae"] = "diffae"
    semantic: int = Field(512, ge=8, description="Width of the semantic code.")
    backbone: Backbone = Backbone(norm="group")
    channels: tuple[int, ...] = Field((32, 64, 128, 128), min_length=2, description="Of each level of the U-Net.")
    blocks: int = Field(2, ge=1, description="Residual blocks per level.")
    attention_levels: tuple[int, ...] = Field((3,), description="Levels, from 0, that attend.")
    dropout: float = Field(0.1, ge=0, lt=1)
    timesteps: int = Field(1000, ge=10)
    hessian: Hessian = Hessian()
    augment: Augment | None = None


class Imagenet(Section):
    """A network trained on ImageNet, as it is: what transfer alone is worth."""

    name: Literal["imagenet"] = "imagenet"
    backbone: Backbone = Backbone(name="resnet18", width=64, stem="7x7")


class Supervised(Section):
    """A network trained from scratch on labels: what a self-supervised encoder has to beat."""

    name: Literal["supervised"] = "supervised"
    backbone: Backbone = Backbone()
    labels: tuple[str, ...] = Field(("pneumonia",), min_length=1)
    imbalance: Literal["none", "weight"] = Field("weight", description="Weigh positives by negatives per positive.")
    augment: Augment = Augment()


class Pixels(Section):
    """Principal components of the pixels: the floor that every encoder must beat."""

    name: Literal["pixels"] = "pixels"
    components: int = Field(128, ge=1)
    max_images: int = Field(4096, ge=2, description="Components are computed from a sample of this many images.")


Encoder = Annotated[
    Vae | Diffae | Moco | MedAug | Discern | Imagenet | Supervised | Pixels, Field(discriminator="name")
]
ENCODER_SECTIONS: dict[str, type[Section]] = {
    "vae": Vae,
    "diffae": Diffae,
    "moco": Moco,
    "medaug": MedAug,
    "discern": Discern,
    "imagenet": Imagenet,
    "supervised": Supervised,
    "pixels": Pixels,
}
