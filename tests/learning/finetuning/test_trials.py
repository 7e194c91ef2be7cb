"""Inside a trial: the order of rows, the rates of an encoder's stages, the score that val gives."""

import numpy as np
import pytest
import torch
from small_encoders import SIZE, SMALL

from hilum.learning import encoders
from hilum.learning.finetuning import fusion
from hilum.learning.finetuning.trials import auroc, order, rate_groups, stages
from hilum.recipe import Finetune


def test_the_encoder_s_stages_move_slower_from_the_top_down() -> None:
    embedder = encoders.build(SMALL["moco"], SIZE).embedder
    model = fusion.FineTuned(embedder, fusion.build("image_only", 64, 0, 1, 0.0))
    below = stages(embedder)
    assert len(below) == 5  # a stem and four stages of one block
    assert next(iter(embedder.parameters())) is below[0][0]
    groups = rate_groups(model, Finetune(backbone_rate=0.5, layer_decay=0.1), "end_to_end", 1.0)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rate_of) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert rate_of[id(model.fusion.head.weight)] == 1.0
    assert [rate_of[id(stage[0])] for stage in below] == pytest.approx([5e-5, 5e-4, 5e-3, 5e-2, 0.5])
    assert all(p.ndim > 1 or group["weight_decay"] == 0 for group in groups for p in group["params"])


def test_an_epoch_holds_every_row_once_or_both_classes_alike() -> None:
    y = torch.tensor([1.0] * 20 + [0.0] * 181)
    batches = order(y, Finetune(imbalance="none", batch_size=64), seed=0, epoch=3)
    assert sorted(torch.cat(batches).tolist()) == list(range(201))
    assert [len(batch) for batch in batches] == [51, 50, 50, 50]
    again = order(y, Finetune(imbalance="none", batch_size=64), seed=0, epoch=4)
    assert not torch.equal(torch.cat(batches), torch.cat(again))
    drawn = torch.cat([torch.cat(order(y, Finetune(imbalance="balanced"), 0, epoch)) for epoch in range(20)])
    assert y[drawn].mean().item() == pytest.approx(0.5, abs=0.03)


def test_auroc_agrees_with_counting_pairs() -> None:
    random = np.random.default_rng(0)
    y, score = (random.random(60) < 0.3).astype(float), random.integers(0, 8, 60).astype(float)
    pairs = [(p, n) for p in score[y == 1] for n in score[y == 0]]
    assert auroc(y, score) == pytest.approx(sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs))
