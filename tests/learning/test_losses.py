"""Losses and weights against loops written from the papers, in float64; the queue against a list."""

import math

import pytest
import torch
from torch import Tensor

from hilum.learning.losses import Queue, contrast_logits, info_nce, log_weights, negatives_of

NAN = math.nan


def moco(
    q: Tensor, k: Tensor, negatives: Tensor, keep: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    return info_nce(contrast_logits(q, k, negatives, keep, temperature, weights))


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1)


def naive_info_nce(q, k, negatives, keep, temperature: float, weights=None) -> float:
    """Equation 1 of He et al. 2020, one exponential at a time; a weight multiplies its exponential (DisCeRn, eq. 5)."""
    total = 0.0
    for i in range(len(q)):
        positive = math.exp(sum(a * b for a, b in zip(q[i], k[i], strict=True)) / temperature)
        below = positive
        for j in range(len(negatives)):
            if keep[i][j]:
                weight = 1.0 if weights is None else weights[i][j]
                below += weight * math.exp(sum(a * b for a, b in zip(q[i], negatives[j], strict=True)) / temperature)
        total += -math.log(positive / below)
    return total / len(q)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_is_the_papers(temperature: float) -> None:
    q, k, negatives = unit(5, 8), unit(5, 8, seed=1), unit(7, 8, seed=2)
    keep = torch.rand(5, 7, generator=torch.Generator().manual_seed(3)) < 0.6
    expected = naive_info_nce(q.double().tolist(), k.double().tolist(), negatives.double().tolist(), keep, temperature)
    assert moco(q, k, negatives, keep, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_info_nce_of_unmasked_negatives_is_cross_entropy_of_class_0() -> None:
    q, k, negatives = unit(4, 6).requires_grad_(), unit(4, 6, seed=1), unit(9, 6, seed=2)
    loss = moco(q, k, negatives, torch.ones(4, 9, dtype=torch.bool), 0.2)
    (gradient,) = torch.autograd.grad(loss, q)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives.T], dim=1) / 0.2
    reference = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    (reference_gradient,) = torch.autograd.grad(reference, q)
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(gradient, reference_gradient)


def test_a_query_without_negatives_costs_nothing_and_has_a_finite_gradient() -> None:
    q = unit(3, 4).requires_grad_()
    loss = moco(q, unit(3, 4, seed=1), unit(5, 4, seed=2), torch.zeros(3, 5, dtype=torch.bool), 0.07)
    loss.backward()
    assert loss.item() == 0.0
    assert q.grad is not None
    assert torch.equal(q.grad, torch.zeros(3, 4))


def test_masked_keys_do_not_matter() -> None:
    q, k, negatives = unit(2, 4), unit(2, 4, seed=1), unit(3, 4, seed=2)
    keep = torch.tensor([[True, False, True], [True, False, True]])
    changed = negatives.clone()
    changed[1] = q[0]
    assert moco(q, k, negatives, keep, 0.1) == moco(q, k, changed, keep, 0.1)


def test_logits_are_float32_under_autocast() -> None:
    q, k, negatives = unit(4, 64), unit(4, 64, seed=1), unit(32, 64, seed=2)
    keep = torch.ones(4, 32, dtype=torch.bool)
    exact = moco(q, k, negatives, keep, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        cast = moco(q, k, negatives, keep, 0.07)
    assert cast.dtype == torch.float32
    assert cast == exact


def sets(n: int, seed: int, n_labels: int = 5, known: float = 1.0) -> Tensor:
    """Labels of which some rows have none; unknown with probability 1 - `known`."""
    draws = torch.rand(2, n, n_labels, generator=torch.Generator().manual_seed(seed))
    return torch.where(draws[1] < known, (draws[0] < 0.3).float(), NAN)


def naive_weights(labels_q, labels_k, keep, mode: str, beta: float = 1.0, rho: float = 0.9, unknown: str = "absent"):
    """The rules in float64, one pair at a time: sets of findings, and a mean of one over what is compared."""
    table = []
    for i, mine in enumerate(labels_q):
        kinship = {}
        for j, its in enumerate(labels_k):
            pairs = [(m, t) for m, t in zip(mine, its, strict=True) if unknown == "absent" or not math.isnan(m + t)]
            a, b = ({label for label, pair in enumerate(pairs) if pair[side] == 1} for side in (0, 1))
            if keep[i][j] and a and b:
                kinship[j] = len(a & b) / len(a | b)
        if mode == "exp":
            raw = {j: math.exp(beta * (1 - jaccard)) for j, jaccard in kinship.items()}
            mean = sum(raw.values()) / max(1, len(raw))
            weights = {j: value / mean for j, value in raw.items()}
        else:
            hard = sum(jaccard == 0 for jaccard in kinship.values())
            n, soft = len(kinship), len(kinship) - hard
            graded = soft > 0 and 0 < hard < rho * n
            weights = {
                j: (rho * n / hard if jaccard == 0 else (1 - rho) * n / soft) if graded else 1.0
                for j, jaccard in kinship.items()
            }
        table.append([weights.get(j, 1.0) for j in range(len(labels_k))])
    return torch.tensor(table, dtype=torch.float64)


@pytest.mark.parametrize("known", [1.0, 0.6])
@pytest.mark.parametrize(
    "rule",
    [
        {"mode": "exp", "beta": 1.0},
        {"mode": "exp", "beta": 2.0, "unknown": "left_out"},
        {"mode": "mass", "hard_share": 0.9},
        {"mode": "mass", "hard_share": 0.7, "unknown": "left_out"},
    ],
    ids=str,
)
def test_weights_are_those_of_a_loop_and_their_mean_is_one(rule: dict, known: float) -> None:
    labels_q, labels_k = sets(20, seed=1, known=known), sets(50, seed=2, known=known)
    keep = torch.rand(20, 50, generator=torch.Generator().manual_seed(3)) < 0.8
    weights = log_weights(labels_q, labels_k, keep, **rule).double().exp()
    named = {"rho" if key == "hard_share" else key: value for key, value in rule.items()}
    expected = naive_weights(labels_q.tolist(), labels_k.tolist(), keep.tolist(), **named)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)
    mean = (weights * keep).sum(dim=1) / keep.sum(dim=1)
    torch.testing.assert_close(mean, torch.ones(20, dtype=torch.float64), rtol=1e-5, atol=0)
    assert (weights - 1).abs().amax(dim=1).gt(0.01).sum() > 8  # most queries have findings, and are weighted
    coded = log_weights(labels_q.nan_to_num(-1.0), labels_k.nan_to_num(-1.0), keep, **rule)
    assert torch.equal(coded.double().exp(), weights)


def test_graded_weights_by_hand() -> None:
    """{a} against {a}, {a, b}, {b}: Jaccard distances 0, 1/2, 1; beta = ln 4 makes them 1 : 2 : 4, of mean 7/3."""
    query, keys = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    keep = torch.ones(1, 3, dtype=torch.bool)
    weights = log_weights(query, keys, keep, "exp", beta=math.log(4)).exp()
    torch.testing.assert_close(weights, torch.tensor([[3 / 7, 6 / 7, 12 / 7]]))


def test_mass_without_masks_is_equations_5_and_6_by_hand() -> None:
    """Ten negatives, of which 4 share the query's finding: w_s = 0.1 * 10 / 4 and w_h = 0.9 * 10 / 6."""
    query = torch.tensor([[0.0, 1.0, 0.0]])
    keys = torch.tensor([[0.0, 1.0, 1.0]] * 4 + [[1.0, 0.0, 1.0]] * 6)
    keep = torch.ones(1, 10, dtype=torch.bool)
    weights = log_weights(query, keys, keep, "mass", hard_share=0.9).exp()
    torch.testing.assert_close(weights, torch.tensor([[0.25] * 4 + [1.5] * 6]))
    q, k, negatives = unit(1, 8), unit(1, 8, seed=1), unit(10, 8, seed=2)
    s = (q @ negatives.T)[0].double() / 0.07
    positive = torch.exp((q * k).sum().double() / 0.07)
    below = positive + 0.25 * s[:4].exp().sum() + 1.5 * s[4:].exp().sum()
    loss = moco(q, k, negatives, keep, 0.07, weights.log())
    assert loss.item() == pytest.approx(-torch.log(positive / below).item(), rel=1e-5)


def test_mass_never_lets_the_alike_weigh_more() -> None:
    """Where 95 of 100 are different anyway, 0.9 on them would turn the rule over; the weights are 1 instead."""
    query = torch.tensor([[1.0, 0.0]])
    keys = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 95)
    keep = torch.ones(1, 100, dtype=torch.bool)
    assert torch.equal(log_weights(query, keys, keep, "mass", hard_share=0.9), torch.zeros(1, 100))
    graded = log_weights(query, keys, keep, "mass", hard_share=0.96)
    assert (graded[0, :5] < 0).all()
    assert (graded[0, 5:] > 0).all()


@pytest.mark.parametrize("mode", ["exp", "mass"])
def test_two_healthy_images_are_neutral_and_not_hard(mode: str) -> None:
    """The report's code took them for different; 43.8 % of CheXpert's rows have none of its six labels."""
    labels = torch.tensor([[0.0, 0.0], [NAN, NAN], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    weights = log_weights(labels, labels, torch.ones(5, 5, dtype=torch.bool), mode, hard_share=0.7).exp()
    assert torch.equal(weights[:2], torch.ones(2, 5))
    assert torch.equal(weights[:, :2], torch.ones(5, 2))
    assert (weights[2:, 2:] != 1).all()


@pytest.mark.parametrize("labels_k", [[[1.0, 0.0]] * 4, [[0.0, 1.0]] * 4], ids=["all alike", "all different"])
@pytest.mark.parametrize("mode", ["exp", "mass"])
def test_weights_are_one_where_all_negatives_are_of_one_class(mode: str, labels_k: list[list[float]]) -> None:
    keep = torch.ones(1, 4, dtype=torch.bool)
    weights = log_weights(torch.tensor([[1.0, 0.0]]), torch.tensor(labels_k), keep, mode)
    torch.testing.assert_close(weights, torch.zeros(1, 4), atol=1e-6, rtol=0)


def test_beta_0_is_moco_in_loss_and_gradient() -> None:
    q, k, negatives = unit(6, 8), unit(6, 8, seed=1), unit(40, 8, seed=2)
    keep = torch.rand(6, 40, generator=torch.Generator().manual_seed(3)) < 0.7
    weights = log_weights(sets(6, 4), sets(40, 5), keep, "exp", beta=0.0)
    told = []
    for log_weights_ in (None, weights):
        leaf = q.clone().requires_grad_()
        loss = moco(leaf, k, negatives, keep, 0.07, log_weights_)
        loss.backward()
        told.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(told[0][0], told[1][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(told[0][1], told[1][1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_a_weight_counts_as_itself_at_any_temperature(temperature: float) -> None:
    """The report's code added log w before the division by tau, which made it w^(1 / tau)."""
    q, k, negatives = unit(5, 8), unit(5, 8, seed=1), unit(30, 8, seed=2)
    labels_q, labels_k = sets(5, 6), sets(30, 7)
    keep = torch.rand(5, 30, generator=torch.Generator().manual_seed(8)) < 0.8
    for mode in ("exp", "mass"):
        weights = naive_weights(labels_q.tolist(), labels_k.tolist(), keep.tolist(), mode)
        expected = naive_info_nce(
            q.double().tolist(), k.double().tolist(), negatives.double().tolist(), keep, temperature, weights.tolist()
        )
        loss = moco(q, k, negatives, keep, temperature, log_weights(labels_q, labels_k, keep, mode))
        assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["exp", "mass"])
def test_a_row_without_negatives_costs_nothing_whatever_its_weights(mode: str) -> None:
    keep = torch.tensor([[False] * 4, [True, False, True, True]])
    weights = log_weights(sets(2, 1).fill_(1.0), sets(4, 2), keep, mode)
    assert weights.isfinite().all()
    q = unit(2, 6).requires_grad_()
    logits = contrast_logits(q, unit(2, 6, seed=1), unit(4, 6, seed=2), keep, 0.07, weights)
    loss = logits.logsumexp(dim=1) - logits[:, 0]
    loss.sum().backward()
    assert loss[0].item() == 0.0
    assert loss[1].item() > 0.0
    assert q.grad is not None
    assert torch.equal(q.grad[0], torch.zeros(6))
    assert q.grad.isfinite().all()


def test_weights_are_exact_under_autocast() -> None:
    labels_q, labels_k, keep = sets(8, 1), sets(64, 2), torch.ones(8, 64, dtype=torch.bool)
    exact = log_weights(labels_q, labels_k, keep)
    with torch.autocast("cpu", torch.bfloat16):
        cast = log_weights(labels_q, labels_k, keep)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, exact)


@pytest.mark.parametrize("batches", [(3, 3, 3, 3), (5, 1, 6, 2), (7, 20, 3)])
def test_the_queue_holds_the_last_keys_whatever_the_batch_sizes(batches: tuple[int, ...]) -> None:
    queue, size = Queue(7, 4, n_labels=2), 7
    written: list[tuple[int, list[float], list[float]]] = []
    for number, n in enumerate(batches):
        keys, patients, labels = unit(n, 4, seed=number), torch.arange(n) + 100 * number, sets(n, number, 2, known=0.7)
        queue.enqueue(keys, patients, labels)
        coded = labels.nan_to_num(nan=-1.0)  # two states with a NaN would never be equal
        written += list(zip(patients.tolist(), keys.tolist(), coded.tolist(), strict=True))
    rows = zip(queue.patients_K.tolist(), queue.keys_KD.tolist(), queue.labels_KL.tolist(), strict=True)
    held = [row for row, filled in zip(rows, queue.valid_K.tolist(), strict=True) if filled]
    assert sorted(held) == sorted(written[-size:])


def test_unfilled_places_are_no_negatives() -> None:
    queue = Queue(5, 4)
    queue.enqueue(unit(2, 4), torch.tensor([10, 11]), torch.zeros(2, 0))
    keep = negatives_of(torch.tensor([-1, 10]), queue.patients_K, queue.valid_K)
    assert keep.tolist() == [[True, True, False, False, False], [False, True, False, False, False]]


def test_patients_beyond_float32s_integers_stay_apart() -> None:
    """As float32, 19999999 and 20000000 are one number; MIMIC's ids are of that size."""
    assert torch.tensor(19_999_999).float() == torch.tensor(20_000_000).float()
    queue = Queue(2, 4)
    queue.enqueue(unit(2, 4), torch.tensor([19_999_999, 20_000_000]), torch.zeros(2, 0))
    keep = negatives_of(torch.tensor([20_000_000]), queue.patients_K, queue.valid_K)
    assert keep.tolist() == [[True, False]]


def test_the_queue_travels_in_the_state() -> None:
    queue, other = Queue(5, 4, n_labels=1), Queue(5, 4, n_labels=1)
    queue.enqueue(unit(3, 4), torch.tensor([1, 2, 3]), torch.tensor([[1.0], [0.0], [NAN]]))
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.enqueue(unit(4, 4, seed=1), torch.tensor([4, 5, 6, 7]), torch.ones(4, 1))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in queue.state_dict().items())
