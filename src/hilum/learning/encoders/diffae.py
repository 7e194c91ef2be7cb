"""`diffae`: a diffusion autoencoder, whose embedding is what a denoiser needs to know of an image.

Preechakul et al. 2022 (Diffusion Autoencoders), section 3. A convolutional network gives z, the semantic code and the
embedding; a U-Net that is told z finds the noise in a noised image. What noise hides (posture, heart size, exposure,
age) z has to say; fine texture, which little noise leaves readable, it need not.

Where METHOD leaves it open: z is a linear map of the backbone's averaged features, so that its width is free and its
coordinates may be negative; the network is a ResNet, not the half U-Net of the reference. Where the recipe augments,
z is computed from the changed view and the original is denoised: what the changes do (exposure, a small rotation) says
nothing of the original, so z need not carry it; x_T still does. B: images, C: 1 channel, H x W: pixels, D: width of z.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from hilum.learning.augment import augment
from hilum.learning.diffusion import Denoiser, signed
from hilum.learning.encoders import Encoder
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.learning.hessian import HessianPenalty
from hilum.learning.nets.embedder import embedder
from hilum.recipe import Backbone, Diffae


class SemanticEmbedder(nn.Module):
    """Averaged features of a backbone, then a linear map to the semantic code.

    Attributes:
        features: The backbone with its normalisation of grey values.
        dim: D.
    """

    def __init__(self, section: Backbone, dim: int) -> None:
        super().__init__()
        self.features = embedder(section)
        self.project = nn.Linear(self.features.dim, dim)
        self.dim = dim

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Semantic codes (B, D), float32, of images (B, 1, H, W) in [0, 1]."""
        z_BD: Tensor = self.project(self.features(x_BCHW))
        return z_BD.float()

    def measure(self, images: TrainImages, seed: int) -> None:
        """Set the mean and spread of grey values from a sample of the train images."""
        self.features.measure(images, seed)


class DiffusionAutoencoder(Encoder):
    """The embedder and the denoiser, trained together; of both the moving average is kept.

    Attributes:
        decoder: The denoiser; `hilum.learning.diffusion` makes images with it.
        hessian: The penalty; its generator is epsilon_theta(x_t, t, z) as a function of z, at the x_t and t of the
            step. The source gives the penalty's weight and not its place; this one is the cheapest that shapes what z
            does to an image.
    """

    embedder: SemanticEmbedder
    decoder: Denoiser
    ema = 0.9999  # Preechakul et al. 2022, appendix A

    def __init__(self, section: Diffae, size: int) -> None:
        denoiser = Denoiser(
            size,
            section.semantic,
            section.channels,
            section.blocks,
            section.attention_levels,
            section.dropout,
            section.timesteps,
        )
        super().__init__(SemanticEmbedder(section.backbone, section.semantic), denoiser)
        self._section = section
        self.hessian = HessianPenalty(section.hessian, denoiser)

    def fit(self, images: TrainImages, seed: int) -> None:
        """Measure the mean and spread of grey values."""
        self.embedder.measure(images, seed)

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Mean squared error of the noise found, at uniform t: Preechakul et al. 2022, equation 6.

        The mean over pixels, where the paper sums: the same up to a constant.
        """
        denoiser, x_BCHW = self.decoder, batch.x_BCHW
        view_BCHW = augment(x_BCHW, self._section.augment, draws) if self._section.augment else x_BCHW
        z_BD: Tensor = self.embedder(view_BCHW)
        t_B, noise_BCHW = draws.integers(denoiser.timesteps), draws.normal(*x_BCHW.shape[1:])
        noised_BCHW = denoiser.noised(signed(x_BCHW), noise_BCHW, t_B)
        loss = F.mse_loss(denoiser(noised_BCHW, t_B, z_BD), noise_BCHW)
        # A z that is the same for all images would be as well told as none.
        self.told = {"noise_mse": loss.detach(), "feature_std": z_BD.detach().std(dim=0, unbiased=False).mean()}
        if self.hessian.due(batch.step):
            chosen_S = self.hessian.chosen(draws)
            x_S, t_S = noised_BCHW[chosen_S], t_B[chosen_S]
            raw = self.hessian(lambda z_SD: denoiser(x_S, t_S, z_SD), z_BD[chosen_S], draws)
            loss = loss + self.hessian.weight * raw
            self.told["hessian"] = raw.detach()
        return loss

    def hot(self) -> list[nn.Module]:
        """The embedder and the denoiser."""
        return [self.embedder, self.decoder]


def build(section: Diffae, size: int) -> DiffusionAutoencoder:
    """An untrained encoder for images of `size` by `size` pixels.

    Raises:
        UsageError: The section does not fit the size.
    """
    return DiffusionAutoencoder(section, size)
