"""`vae`: a variational autoencoder; its embedding is the posterior's mean.

Kingma and Welling 2014 (Auto-Encoding Variational Bayes). Loss of an image x of P pixels, in nats:

    -log p(x | z) + beta * KL(N(mu, sigma^2) || N(0, 1)),   z = mu + sigma * noise

The likelihood is Gaussian (`mse`) or Laplacian (`l1`) with one width for all pixels, and the width is the best one for
the batch: Rybkin et al. 2021 (Simple and Effective VAE Training with Calibrated Decoders), section 4. So both terms are
in nats whatever the size of the images, and kl_weight = 1 is the bound on the likelihood itself. With a fixed width,
kl_weight would silently mean another trade of detail against rate at each size and for each dataset
(docs/decisions/0009-encoders.md).

B: images, D: coordinates of the embedding, P: pixels of an image.
"""

import math
from typing import Final, Literal

import torch
from torch import Tensor, nn

from hilum.learning.augment import augment
from hilum.learning.encoders import Encoder
from hilum.learning.engine import workers
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.learning.hessian import HessianPenalty
from hilum.learning.nets.autoencoder import Downward, Upward
from hilum.learning.nets.embedder import Embedder
from hilum.recipe import Vae

# exp of a log variance overflows float32 beyond 88, and one bad early step at a large learning rate gets there. Between
# these bounds a posterior is from 150 times narrower to 150 times wider than the prior, more than images ask for. The
# bound is soft, because beyond a hard one there is no gradient that leads back.
LOG_VARIANCE_BOUND: Final = 10.0
ACTIVE: Final = 0.01  # Burda et al. 2016 (Importance Weighted Autoencoders), section 5.2
# Images are stored in 256 grey levels; their rounding error has this standard deviation, and no better fit is real.
FINEST_WIDTH: Final = 1 / 255 / math.sqrt(12)


class Mean(Embedder):
    """What is kept: normalisation, the convolutions, and the map to mu. It never adds noise.

    Attributes:
        mu: From features to the posterior's mean.
    """

    def __init__(self, net: Downward, dim: int) -> None:
        super().__init__(net, dim)
        self.mu = nn.Linear(net.dim, dim)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, F) of images in [0, 1], from which mean and variance are read."""
        features_BF: Tensor = self.net((x_BCHW - self.mean) / self.std)
        return features_BF

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embeddings (B, D), float32: mu, in training as in evaluation."""
        mu_BD: Tensor = self.mu(self.features(x_BCHW))
        return mu_BD.float()


class VariationalAutoencoder(Encoder):
    """Encoder and decoder, trained together; the decoder is kept, so that embeddings become images again."""

    embedder: Mean
    decoder: Upward

    def __init__(self, section: Vae, size: int) -> None:
        net = Downward(section.channels, size, section.norm)
        super().__init__(Mean(net, section.latent), Upward(section.latent, section.channels, size, section.norm))
        self.log_variance = nn.Linear(net.dim, section.latent)
        self._section = section
        self._hessian = HessianPenalty(section.hessian, self.decoder)

    def fit(self, images: TrainImages, seed: int) -> None:
        """Measure the mean and spread of grey values."""
        self.embedder.measure(images, seed)

    def posterior(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, D), float32, of q(z | x) for images in [0, 1]."""
        features_BF = self.embedder.features(x_BCHW)
        raw_BD = self.log_variance(features_BF).float()
        return self.embedder.mu(features_BF).float(), LOG_VARIANCE_BOUND * torch.tanh(raw_BD / LOG_VARIANCE_BOUND)

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """The negative bound on the likelihood (equation 10, one sample of z), plus the weighted Hessian penalty."""
        section, x_BCHW = self._section, batch.x_BCHW
        if section.augment is not None:
            x_BCHW = augment(x_BCHW, section.augment, draws)
        mu_BD, log_variance_BD = self.posterior(x_BCHW)
        z_BD = mu_BD + torch.exp(0.5 * log_variance_BD) * draws.normal(mu_BD.shape[1])
        reconstruction = negative_log_likelihood(self.decoder(z_BD), x_BCHW, section.reconstruction)
        kl = kl_to_prior(mu_BD, log_variance_BD).mean()
        beta = section.kl_weight * warmed(batch.done, section.kl_warmup_share)
        active = (workers.gather(mu_BD.detach()).var(dim=0, unbiased=False) > ACTIVE).sum()
        self.told = {"reconstruction": reconstruction.detach(), "kl": kl.detach(), "active_units": active}
        loss = reconstruction + beta * kl
        if self._hessian.due(batch.step):
            chosen_S = self._hessian.chosen(draws)
            penalty = self._hessian(self.decoder, mu_BD[chosen_S], draws)
            self.told["hessian"] = penalty.detach()
            loss = loss + self._hessian.weight * penalty
        return loss

    def hot(self) -> list[nn.Module]:
        """The convolutions of both halves."""
        return [self.embedder.net, self.decoder]


def negative_log_likelihood(y_BCHW: Tensor, x_BCHW: Tensor, kind: Literal["mse", "l1"]) -> Tensor:
    """The mean over a worker's images of -log p(x | z), summed over pixels, in nats.

    Gaussian with variance s^2, the mean squared error: P / 2 * log(2 pi s^2) + sum of squares / (2 s^2). Laplacian with
    scale b, the mean absolute error: P * log(2 b) + sum of magnitudes / b. Each width is the one that makes the sum
    over the global batch least, so holding it fixed leaves the gradient what it is (Rybkin et al. 2021, equation 5).

    Args:
        y_BCHW: Reconstructions, float32.
        x_BCHW: Images.
        kind: `mse` is Gaussian, `l1` Laplacian.
    """
    apart_BP = (y_BCHW - x_BCHW).flatten(1)
    n_pixels = apart_BP.shape[1]
    error_B = (apart_BP.square() if kind == "mse" else apart_BP.abs()).sum(dim=1)
    mean = workers.gather(error_B.detach()).mean() / n_pixels
    if kind == "mse":
        variance = mean.clamp(min=FINEST_WIDTH**2)
        return 0.5 * (n_pixels * torch.log(2 * math.pi * variance) + error_B / variance).mean()
    scale = mean.clamp(min=FINEST_WIDTH)
    return (n_pixels * torch.log(2 * scale) + error_B / scale).mean()


def kl_to_prior(mu_BD: Tensor, log_variance_BD: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) of each image (B,), in nats: Kingma and Welling 2014, appendix B."""
    return 0.5 * (mu_BD.square() + log_variance_BD.exp() - 1.0 - log_variance_BD).sum(dim=1)


def warmed(done: float, share: float) -> float:
    """The share of its full weight that the KL has: from 0 to 1 over the first `share` of all steps.

    Bowman et al. 2016 (Generating Sentences from a Continuous Space), section 3.1: otherwise the KL empties
    coordinates before the decoder has learned to use them.
    """
    return 1.0 if share == 0 else min(1.0, done / share)


def build(section: Vae, size: int) -> VariationalAutoencoder:
    """An untrained encoder for images of `size` by `size` pixels."""
    return VariationalAutoencoder(section, size)
