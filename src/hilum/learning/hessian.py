"""The Hessian penalty, for directions of an embedding that act on an image independently.

Peebles et al. 2020 (The Hessian Penalty: A Weak Prior for Unsupervised Disentanglement). Where the Hessian of every
activation of a generator with respect to its input is diagonal, what one coordinate does to the activation does not
depend on the others. The off-diagonal part is estimated without the Hessian: for random signs v,
Var(v^T H v) = 2 * sum over i != j of H_ij^2 (theorem 1), and v^T H v is a second difference (equation 4).

B: images, D: coordinates of the embedding, k: directions, G: images of the global batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from hilum.errors import UsageError
from hilum.learning.engine import workers
from hilum.learning.engine.draws import Draws
from hilum.recipe import Hessian

Reduction = Literal["max", "mean", "sum"]


def curvature_variances(
    generate: Callable[[Tensor], Sequence[Tensor]], z_BD: Tensor, v_kBD: Tensor, epsilon: float
) -> list[Tensor]:
    """The variance of v^T H v over the directions v, for every element of every activation.

    Passes run without autocast: bfloat16 keeps 8 bits, so that a second difference of it would be rounding error.

    Args:
        generate: From inputs (B, D) to activations, each (B, ...). Must be deterministic: no dropout, batch
            normalisation with its running statistics (`still`).
        z_BD: Where the Hessian is meant.
        v_kBD: Directions of -1 and 1; k is at least 2.
        epsilon: Step of the second difference.

    Returns:
        One tensor per activation, of its shape: equation 5, the unbiased variance over k second differences.
    """
    with torch.autocast(z_BD.device.type, enabled=False):
        middle = generate(z_BD)
        second: list[list[Tensor]] = [[] for _ in middle]
        for v_BD in v_kBD:
            beyond, before = generate(z_BD + epsilon * v_BD), generate(z_BD - epsilon * v_BD)
            for at, (b, m, a) in enumerate(zip(beyond, middle, before, strict=True)):
                second[at].append((b - 2 * m + a) / epsilon**2)
        return [torch.stack(differences).var(dim=0, unbiased=True) for differences in second]


def hessian_penalty(
    generate: Callable[[Tensor], Sequence[Tensor]],
    z_BD: Tensor,
    v_kBD: Tensor,
    epsilon: float = 0.1,
    reduction: Reduction = "max",
) -> Tensor:
    """The penalty of one worker's images: `curvature_variances`, reduced, and summed over activations; a scalar.

    Args:
        generate: See `curvature_variances`.
        z_BD: Likewise.
        v_kBD: Likewise.
        epsilon: Likewise.
        reduction: `max` over all elements, images included, as the paper does it; `mean` over all elements; or `sum`
            over the elements of an image and the mean over images.
    """
    return _per_activation(curvature_variances(generate, z_BD, v_kBD, epsilon), reduction).sum()


def _per_activation(variances: Sequence[Tensor], reduction: Reduction) -> Tensor:
    """One number per activation."""
    if reduction == "max":
        return torch.stack([variance.max() for variance in variances])
    if reduction == "mean":
        return torch.stack([variance.mean() for variance in variances])
    return torch.stack([variance.sum() / len(variance) for variance in variances])


@contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """The network made deterministic: no dropout, and running statistics that are used and not moved."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class HessianPenalty:
    """The penalty that a recipe's section asks of one generator network.

    How an encoder uses it, once the ordinary forward passes of the step are done (batch normalisation moves its
    running statistics in them, which these passes hold on to until the gradient is computed):

        if self.hessian.due(batch.step):
            chosen_S = self.hessian.chosen(draws)
            raw = self.hessian(self.net, z_BD[chosen_S], draws)
            loss = loss + self.hessian.weight * raw
    """

    def __init__(self, section: Hessian, net: nn.Module) -> None:
        """Look the layers up.

        Raises:
            UsageError: The generator has no module of such a name.
        """
        self._section = section
        self._net = net
        known = dict(net.named_modules())
        if absent := [name for name in section.layers if name not in known]:
            raise UsageError(
                f"hessian.layers names {', '.join(map(repr, absent))}; "
                f"the generator's modules are {', '.join(name for name in known if name)}"
            )

    @property
    def weight(self) -> float:
        """What the raw penalty is multiplied by.

        Steps between are made up for (lazy regularisation: Karras et al. 2020, StyleGAN2, appendix B), so that the
        section's weight means the same whatever `every_n_steps` is.
        """
        return self._section.weight * self._section.every_n_steps

    def due(self, step: int) -> bool:
        """Whether step `step` (from 0) is penalised."""
        return self._section.weight > 0 and step % self._section.every_n_steps == 0

    def chosen(self, draws: Draws) -> Tensor:
        """Which of this worker's images are used, int64 (S,): evenly spread over the global batch; S may be 0."""
        start, stop, _ = draws.part.indices(draws.n)
        every_G = torch.arange(self._n_images(draws)) * draws.n // self._n_images(draws)
        mine = every_G[(every_G >= start) & (every_G < stop)] - start
        return mine.to(draws.generator.device)

    def __call__(self, generate: Callable[[Tensor], Tensor], z_SD: Tensor, draws: Draws) -> Tensor:
        """The raw penalty, unweighted: this worker's part, scaled as the mean over its images is.

        The worker's share is such that weighing it by the worker's images and averaging, as training does with every
        loss, gives what one worker would have: for `max`, only the worker that holds the largest element has a share.

        Args:
            generate: From z (S, D) to the generator's output, by a call of the network that this was made with.
            z_SD: Embeddings of the `chosen` images. They are held fixed: as in the paper the generator is shaped, and
                the encoder cannot evade by drawing the embeddings together.
            draws: Of this step.
        """
        chosen_S = self.chosen(draws)
        v_kSD = draws.signs(self._section.k, z_SD.shape[1])[chosen_S].transpose(0, 1)
        start, stop, _ = draws.part.indices(draws.n)
        scale = draws.n / max(1, stop - start)
        if len(chosen_S) == 0:
            reduced_L = z_SD.new_zeros(max(1, len(self._section.layers)))
        else:
            with still(self._net), self._heard(generate) as activations:
                variances = curvature_variances(activations, z_SD.detach(), v_kSD, self._section.epsilon)
            reduced_L = _per_activation(variances, self._section.reduction)
        if self._section.reduction == "max":
            everyone_WL = workers.gather(reduced_L.detach()[None])
            largest_L = everyone_WL.amax(dim=0)
            holders_L = (everyone_WL == largest_L).sum(dim=0)
            reduced_L = torch.where(reduced_L == largest_L, reduced_L / holders_L, 0.0)
        else:
            scale *= len(chosen_S) / self._n_images(draws)
        return reduced_L.sum() * scale

    def _n_images(self, draws: Draws) -> int:
        return min(self._section.images, draws.n)

    @contextmanager
    def _heard(self, generate: Callable[[Tensor], Tensor]) -> Iterator[Callable[[Tensor], list[Tensor]]]:
        """`generate` with what the named layers give out in place of its output."""
        layers = self._section.layers
        if not layers:
            yield lambda z_SD: [generate(z_SD)]
            return
        heard: list[Tensor] = []

        def hear(_layer: nn.Module, _given: object, out: Tensor) -> None:
            heard.append(out.clone())  # an activation that works in place may follow

        # Looked up now, because batch normalisation is put in another's place where several workers train.
        hooks = [self._net.get_submodule(name).register_forward_hook(hear) for name in layers]

        def activations(z_SD: Tensor) -> list[Tensor]:
            heard.clear()
            generate(z_SD)
            if len(heard) != len(layers):
                raise UsageError(
                    f"the modules of hessian.layers ({', '.join(layers)}) were called {len(heard)} times "
                    f"in a pass of the generator, not {len(layers)}; name modules that it calls once"
                )
            return list(heard)

        try:
            # For new hooks a compiled network would be compiled anew, at every step.
            with torch.compiler.set_stance("force_eager"):
                yield activations
        finally:
            for hook in hooks:
                hook.remove()
