"""From features and covariates to a logit: the rungs of the fusion ladder that are trained by gradients.

METHOD section 9. All rungs draw the weights of their image part alike, so that one seed begins at one point.

B: images, D: width of the features, C: covariates, E: width of their code.
"""

from typing import Final

import torch
from torch import Tensor, nn

from hilum.learning.engine.draws import Draws

BY_GRADIENTS: Final = ("image_only", "concatenation", "gated")  # rungs that are here


class Fusion(nn.Module):
    """A linear layer on standardised features, and what a rung adds to it; by itself it is `image_only`.

    Attributes:
        mean_D: Of the train rows' features before fine-tuning.
        std_D: Likewise; 1 where a feature does not vary.
    """

    mean_D: Tensor
    std_D: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, 1)
        self.register_buffer("mean_D", torch.zeros(dim))
        self.register_buffer("std_D", torch.ones(dim))

    def standardise(self, phi_ND: Tensor) -> None:
        """Set mean and standard deviation from the features of the train rows."""
        std_D = phi_ND.double().std(dim=0, correction=0)
        self.mean_D.copy_(phi_ND.double().mean(dim=0))
        self.std_D.copy_(torch.where(std_D > 1e-6 * phi_ND.abs().max(), std_D, 1.0))

    def forward(
        self,
        phi_BD: Tensor,
        values_BC: Tensor,  # noqa: ARG002  for the rungs above
        missing_BC: Tensor,  # noqa: ARG002
        draws: Draws | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Logits, float32 (B,).

        Args:
            phi_BD: Features of the images.
            values_BC: Scaled covariates, 0 where missing.
            missing_BC: 1 where missing.
            draws: In training, of the step; None drops nothing.
        """
        logit_B1: Tensor = self.head((phi_BD.float() - self.mean_D) / self.std_D)
        return logit_B1.squeeze(1)


class Concatenation(Fusion):
    """One linear layer on features and imputed covariates, as in source B; it sees no masks.

    The layer's weights on the covariates are a parameter of their own, which is the same linear map.
    """

    def __init__(self, dim: int, n_covariates: int) -> None:
        super().__init__(dim)
        self.covariates = nn.Linear(n_covariates, 1, bias=False)

    def forward(self, phi_BD: Tensor, values_BC: Tensor, missing_BC: Tensor, draws: Draws | None = None) -> Tensor:
        """See Fusion."""
        added_B1: Tensor = self.covariates(values_BC)
        return super().forward(phi_BD, values_BC, missing_BC, draws) + added_B1.squeeze(1)


class Gated(Fusion):
    """The gated residual: h = phi + sigmoid(W [phi, e]) * V e, then the linear layer on h.

    e is a code of values and masks, so that what is not measured can speak too. V begins at zero: a fresh network
    answers by the image alone, whatever the covariates. In training a row is shown without its covariates now and
    then (modality dropout, as if nothing had been measured), so that the image keeps answering by itself.
    """

    def __init__(self, dim: int, n_covariates: int, width: int, dropout: float) -> None:
        super().__init__(dim)
        self.code = nn.Sequential(
            nn.Linear(2 * n_covariates, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True)
        )
        self.gate = nn.Linear(dim + width, dim)
        self.residual = nn.Linear(width, dim, bias=False)
        nn.init.zeros_(self.residual.weight)
        self._dropout = dropout

    def forward(self, phi_BD: Tensor, values_BC: Tensor, missing_BC: Tensor, draws: Draws | None = None) -> Tensor:
        """See Fusion."""
        if draws is not None and self._dropout > 0:
            dropped_B1 = draws.uniform(0.0, 1.0, 1) < self._dropout
            values_BC = torch.where(dropped_B1, 0.0, values_BC)
            missing_BC = torch.where(dropped_B1, 1.0, missing_BC)
        phi_BD = (phi_BD.float() - self.mean_D) / self.std_D
        e_BE = self.code(torch.cat([values_BC, missing_BC], dim=1))
        gate_BD = torch.sigmoid(self.gate(torch.cat([phi_BD, e_BE], dim=1)))
        logit_B1: Tensor = self.head(phi_BD + gate_BD * self.residual(e_BE))
        return logit_B1.squeeze(1)


def build(kind: str, dim: int, n_covariates: int, width: int, dropout: float) -> Fusion:
    """A rung by its name, untrained; weights come from torch's global generator.

    Args:
        kind: One of BY_GRADIENTS.
        dim: D.
        n_covariates: C; not asked of `image_only`.
        width: E, of `gated`.
        dropout: Probability of the modality dropout of `gated`.
    """
    if kind == "concatenation":
        return Concatenation(dim, n_covariates)
    if kind == "gated":
        return Gated(dim, n_covariates, width, dropout)
    assert kind == "image_only", kind
    return Fusion(dim)


class FineTuned(nn.Module):
    """An embedder and a rung: from images and covariates to logits."""

    def __init__(self, embedder: nn.Module, fusion: Fusion) -> None:
        super().__init__()
        self.embedder = embedder
        self.fusion = fusion

    def forward(self, x_BCHW: Tensor, values_BC: Tensor, missing_BC: Tensor, draws: Draws | None = None) -> Tensor:
        """Logits, float32 (B,), of images in [0, 1] and covariates; see Fusion."""
        logit_B: Tensor = self.fusion(self.embedder(x_BCHW), values_BC, missing_BC, draws)
        return logit_B
