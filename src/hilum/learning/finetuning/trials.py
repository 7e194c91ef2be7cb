"""The trials of a fine-tuning: each learning rate and seed, ended early by val, the best kept.

Legend: N rows of a split, B rows of a batch, C covariates, D width of the features, U distinct scores.
"""

import json
import math
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum import progress
from hilum.data.clinical import Clinical
from hilum.errors import TrainingError, UsageError
from hilum.identity import require_same
from hilum.learning.augment import augment
from hilum.learning.engine import checkpoint, device
from hilum.learning.engine.batches import BLOCK, blocks
from hilum.learning.engine.draws import Draws, mixed
from hilum.learning.finetuning import fusion as fusions
from hilum.learning.finetuning.cases import Cases, Films
from hilum.learning.finetuning.fusion import FineTuned
from hilum.ranking import auroc
from hilum.recipe.finetune import Finetune, Fusion, Mode

METRICS: Final = "metrics.jsonl"
CHECKPOINT_SECONDS: Final = 10.0  # epochs on frozen features take milliseconds
ORDER, VIEW, WITHOUT, INNER = range(4)  # what a seed is mixed with, so that no two uses share random numbers


@dataclass(frozen=True)
class Search:
    """Everything of the trials that does not change from one to the next."""

    section: Finetune
    mode: Mode
    fusion: Fusion
    embedder: nn.Module
    cases: dict[str, Cases]
    clinical: Clinical | None
    films: Films
    phi: dict[str, Tensor]
    where: torch.device

    def run(self, identity: dict[str, str], out: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """All trials, from the folder's checkpoint where there is one: the best epoch's weights, and each trial."""
        plan = [
            (rate, self.section.seed + number)
            for rate in self.section.rates(self.mode)
            for number in range(self.section.repeats)
        ]
        state: dict[str, Any] = checkpoint.load(out) or {
            "run": identity, "step": 0, "metrics_bytes": 0, "trials": [], "best": {}, "trial": {}
        }  # fmt: skip
        require_same(state["run"], identity, out, "fine-tuning")
        path = out / METRICS
        path.touch()
        saved = time.monotonic()
        title = f"fine-tune {self.mode} {self.fusion}"
        with (
            torch.random.fork_rng(devices=[self.where] if self.where.type == "cuda" else []),
            progress.bar(title, len(plan) * self.section.epochs(self.mode), "epoch") as shown,
            path.open("r+", encoding="utf-8") as stream,
        ):
            stream.truncate(min(state["metrics_bytes"], path.stat().st_size))
            stream.seek(0, 2)
            for number in range(len(state["trials"]), len(plan)):
                rate, seed = plan[number]
                trial = Trial(self, rate, seed, state["trial"])
                shown.update(number * self.section.epochs(self.mode) + trial.epoch - shown.n)
                while not trial.over:
                    told = trial.take_epoch()
                    stream.write(json.dumps({"trial": number, "learning_rate": rate, "seed": seed, **told}) + "\n")
                    state["step"] += 1
                    shown.update()
                    shown.set_postfix(rate=f"{rate:g}", val=told["val_auroc"], refresh=False)
                    if time.monotonic() - saved > CHECKPOINT_SECONDS and not trial.over:
                        self._save({**state, "trial": trial.state()}, stream, out)
                        saved = time.monotonic()
                state["trials"] = [*state["trials"], trial.told()]
                state["trial"] = {}
                if trial.best and (not state["best"] or trial.best["score"] > state["best"]["score"]):
                    state["best"] = trial.best
                self._save(state, stream, out)
                saved = time.monotonic()
        if not state["best"]:
            raise TrainingError(
                f"no learning rate of {', '.join(f'{rate:g}' for rate in self.section.rates(self.mode))} gave a finite "
                f"loss; lower finetune.{self.mode}_rates"
            )
        return state["best"]["model"], state["trials"]

    def _save(self, state: dict[str, Any], stream: Any, out: Path) -> None:
        stream.flush()
        state["metrics_bytes"] = stream.tell()
        checkpoint.save(out, state)

    def fresh(self, seed: int) -> FineTuned:
        """The network as a trial finds it: the pretrained embedder, and a fusion whose weights the seed decides."""
        n_covariates = len(self.clinical.names) if self.clinical else 0
        dim = self.phi["train"].shape[1]
        section = self.section
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = fusions.build(self.fusion, dim, n_covariates, section.covariate_width, section.modality_dropout)
        head.standardise(self.phi["train"].cpu())
        return FineTuned(deepcopy(self.embedder), head).to(self.where)

    @torch.no_grad()
    def logits(self, model: FineTuned, split: str) -> Tensor:
        """Logits (N,) of all rows of a split, in float32, by the network in eval mode."""
        model.eval()
        cases, parts = self.cases[split], []
        for part in blocks(len(cases), BLOCK):
            phi_BD = self.phi[split][part] if self.mode == "linear" else model.embedder(self.films[cases.rows_N[part]])
            parts.append(model.fusion(phi_BD, cases.values_NC[part], cases.missing_NC[part]))
        return torch.cat(parts) if parts else torch.zeros(0, device=self.where)

    def answers(self, model: FineTuned, split: str) -> pd.DataFrame:
        """Logits of a split in the columns of a probe's predictions."""
        cases = self.cases[split]
        return pd.DataFrame(
            {
                "row": cases.rows_N,
                "patient": cases.patients_N,
                "task": self.section.label,
                "kernel": f"{self.mode}_{self.fusion}",
                "split": split,
                "fold": np.zeros(len(cases), dtype=np.int64),
                "score": self.logits(model, split).cpu().numpy().astype(float),
                "truth": cases.y_N.cpu().numpy().astype(float),
            }
        )


class Trial:
    """One learning rate with one seed: epochs until val has not improved for a while."""

    def __init__(self, search: Search, rate: float, seed: int, state: dict[str, Any]) -> None:
        self._search, self._rate, self._seed = search, rate, seed
        self._model = search.fresh(seed)
        self._optimizer = torch.optim.AdamW(rate_groups(self._model, search.section, search.mode, rate), fused=True)
        positives = float(search.cases["train"].y_N.sum())
        weigh = search.section.imbalance == "weight"
        weight = (len(search.cases["train"]) - positives) / positives if weigh else 1.0
        self._weight = torch.tensor(weight, device=search.where)
        self.epoch, self._since, self._finite = 0, 0, True
        self.best: dict[str, Any] = {}
        if state:
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.epoch, self._since, self.best = state["epoch"], state["since"], state["best"]

    @property
    def over(self) -> bool:
        """Whether its epochs or its patience are used up, or its loss is no number."""
        section = self._search.section
        return self.epoch >= section.epochs(self._search.mode) or self._since >= section.patience or not self._finite

    def take_epoch(self) -> dict[str, Any]:
        """Move the weights once over the train split, and ask val."""
        began = time.monotonic()
        loss = self._train()
        cases = self._search.cases["val"]
        logit_N = self._search.logits(self._model, "val")
        val_loss = float(F.binary_cross_entropy_with_logits(logit_N, cases.y_N, pos_weight=self._weight))
        self.epoch += 1
        self._finite = math.isfinite(loss) and math.isfinite(val_loss)
        told: dict[str, Any] = {"epoch": self.epoch, "loss": None, "val_loss": None, "val_auroc": None}
        if self._finite:
            area = auroc(cases.y_N.cpu().numpy(), logit_N.cpu().numpy())
            told |= {"loss": loss, "val_loss": val_loss, "val_auroc": area}
            # The loss settles what a coarse AUROC leaves even.
            score = [area, -val_loss] if self._search.section.stop_on == "auroc" else [-val_loss, area]
            better = not self.best or score > self.best["score"]
            self._since = 0 if better else self._since + 1
            if better:
                model = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
                self.best = {"score": score, "epoch": self.epoch, "auroc": area, "loss": val_loss, "model": model}
        return {**told, "seconds": round(time.monotonic() - began, 4)}

    def _train(self) -> float:
        search, section, model = self._search, self._search.section, self._model
        cases, trainable = search.cases["train"], [p for p in model.parameters() if p.requires_grad]
        model.train()
        if search.mode == "linear":
            model.embedder.eval()
        batches = order(cases.y_N.cpu(), section, self._seed, self.epoch)
        losses = []
        for number, index_B in enumerate(batches):
            step, n = self.epoch * len(batches) + number, len(index_B)
            torch.manual_seed(mixed(self._seed, step, INNER))  # of dropout inside an embedder
            placed_B = index_B.to(search.where)
            if search.mode == "linear":
                phi_BD = search.phi["train"][placed_B]
            else:
                x_BCHW = search.films[cases.rows_N[index_B.numpy()]]
                x_BCHW = augment(x_BCHW, section.augment, Draws(mixed(self._seed, step, VIEW), n, search.where))
                with device.autocast(search.where, section.precision):
                    phi_BD = model.embedder(x_BCHW)
            draws = Draws(mixed(self._seed, step, WITHOUT), n, search.where)
            logit_B = model.fusion(phi_BD, cases.values_NC[placed_B], cases.missing_NC[placed_B], draws)
            loss = F.binary_cross_entropy_with_logits(logit_B, cases.y_N[placed_B], pos_weight=self._weight)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trainable, section.clip_norm)
            self._optimizer.step()
            losses.append(loss.detach() * n)
        return float(torch.stack(losses).sum()) / len(cases)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of a trial under way."""
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch": self.epoch,
            "since": self._since,
            "best": self.best,
        }

    def told(self) -> dict[str, Any]:
        """For the card."""
        best = self.best
        return {
            "learning_rate": self._rate,
            "seed": self._seed,
            "epochs": self.epoch,
            "best_epoch": best.get("epoch"),
            "val_auroc": best.get("auroc"),
            "val_loss": best.get("loss"),
            "diverged": not self._finite,
            "score": best.get("score"),
        }


def order(y_N: Tensor, section: Finetune, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Rows of an epoch in batches of nearly one size: each once, or drawn so that both classes come equally often."""
    generator = torch.Generator().manual_seed(mixed(seed, epoch, ORDER))
    if section.imbalance == "balanced":
        positives = float(y_N.sum())
        share_N = torch.where(y_N == 1, 0.5 / positives, 0.5 / (len(y_N) - positives))
        rows = torch.multinomial(share_N, len(y_N), replacement=True, generator=generator)
    else:
        rows = torch.randperm(len(y_N), generator=generator)
    return torch.tensor_split(rows, -(-len(y_N) // section.batch_size))


def rate_groups(model: FineTuned, section: Finetune, mode: Mode, rate: float) -> list[dict[str, Any]]:
    """Parameters with their learning rates: the fusion at `rate`, the embedder's stages lower, from the top down.

    A stage moves at `rate * backbone_rate * layer_decay^k`, k stages below the last (Howard and Ruder 2018, ULMFiT,
    section 3.2, discriminative fine-tuning). Biases and norms are not decayed.

    Raises:
        UsageError: All weights are to move, but the encoder has none.
    """
    parts = [(rate, list(model.fusion.parameters()))]
    if mode == "end_to_end":
        below = stages(model.embedder)
        if not below:
            raise UsageError("this encoder has no weights that steps could move; fine-tune it with the mode linear")
        parts += [
            (rate * section.backbone_rate * section.layer_decay**k, stage) for k, stage in enumerate(reversed(below))
        ]
    return [
        {"params": chosen, "lr": lr, "weight_decay": decay}
        for lr, parameters in parts
        for decay, chosen in (
            (section.weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        )
        if chosen
    ]


def stages(module: nn.Module) -> list[list[nn.Parameter]]:
    """Trainable parameters of a network in stages, in the order in which its modules were made: input to output.

    A stage is a block of a sequence of blocks, or a module beside such sequences with the norm that follows it.
    """
    own = [p for p in module.parameters(recurse=False) if p.requires_grad]
    children = [child for child in module.children() if any(p.requires_grad for p in child.parameters())]
    if not own and len(children) == 1:
        return stages(children[0])
    found: list[list[nn.Parameter]] = [own] if own else []
    for child in children:
        of_blocks = isinstance(child, (nn.Sequential, nn.ModuleList)) and any(
            next(block.children(), None) is not None for block in child
        )
        for block in child.children() if of_blocks else (child,):
            stage = [p for p in block.parameters() if p.requires_grad]
            if found and all(p.ndim <= 1 for p in stage):
                found[-1] += stage
            elif stage:
                found.append(stage)
    return found
