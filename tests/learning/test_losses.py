"""InfoNCE against loops written from the paper, in float64; the queue against a list."""

import math

import pytest
import torch

from hilum.learning.losses import Queue, info_nce, negatives_of


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1)


def naive_info_nce(q, k, negatives, keep, temperature: float) -> float:
    """Equation 1 of He et al. 2020, one exponential at a time."""
    total = 0.0
    for i in range(len(q)):
        positive = math.exp(sum(a * b for a, b in zip(q[i], k[i], strict=True)) / temperature)
        below = positive
        for j in range(len(negatives)):
            if keep[i][j]:
                below += math.exp(sum(a * b for a, b in zip(q[i], negatives[j], strict=True)) / temperature)
        total += -math.log(positive / below)
    return total / len(q)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_is_the_papers(temperature: float) -> None:
    q, k, negatives = unit(5, 8), unit(5, 8, seed=1), unit(7, 8, seed=2)
    keep = torch.rand(5, 7, generator=torch.Generator().manual_seed(3)) < 0.6
    expected = naive_info_nce(q.double().tolist(), k.double().tolist(), negatives.double().tolist(), keep, temperature)
    assert info_nce(q, k, negatives, keep, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_info_nce_of_unmasked_negatives_is_cross_entropy_of_class_0() -> None:
    q, k, negatives = unit(4, 6).requires_grad_(), unit(4, 6, seed=1), unit(9, 6, seed=2)
    loss = info_nce(q, k, negatives, torch.ones(4, 9, dtype=torch.bool), 0.2)
    (gradient,) = torch.autograd.grad(loss, q)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives.T], dim=1) / 0.2
    reference = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    (reference_gradient,) = torch.autograd.grad(reference, q)
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(gradient, reference_gradient)


def test_a_query_without_negatives_costs_nothing_and_has_a_finite_gradient() -> None:
    q = unit(3, 4).requires_grad_()
    loss = info_nce(q, unit(3, 4, seed=1), unit(5, 4, seed=2), torch.zeros(3, 5, dtype=torch.bool), 0.07)
    loss.backward()
    assert loss.item() == 0.0
    assert q.grad is not None
    assert torch.equal(q.grad, torch.zeros(3, 4))


def test_masked_keys_do_not_matter() -> None:
    q, k, negatives = unit(2, 4), unit(2, 4, seed=1), unit(3, 4, seed=2)
    keep = torch.tensor([[True, False, True], [True, False, True]])
    changed = negatives.clone()
    changed[1] = q[0]
    assert info_nce(q, k, negatives, keep, 0.1) == info_nce(q, k, changed, keep, 0.1)


def test_logits_are_float32_under_autocast() -> None:
    q, k, negatives = unit(4, 64), unit(4, 64, seed=1), unit(32, 64, seed=2)
    keep = torch.ones(4, 32, dtype=torch.bool)
    exact = info_nce(q, k, negatives, keep, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        cast = info_nce(q, k, negatives, keep, 0.07)
    assert cast.dtype == torch.float32
    assert cast == exact


@pytest.mark.parametrize("batches", [(3, 3, 3, 3), (5, 1, 6, 2), (7, 20, 3)])
def test_the_queue_holds_the_last_keys_whatever_the_batch_sizes(batches: tuple[int, ...]) -> None:
    queue, size = Queue(7, 4), 7
    written: list[tuple[list[float], int]] = []
    for number, n in enumerate(batches):
        keys, patients = unit(n, 4, seed=number), torch.arange(n) + 100 * number
        queue.enqueue(keys, patients)
        written += list(zip(keys.tolist(), patients.tolist(), strict=True))
    last = written[-size:]
    filled = queue.valid_K.tolist()
    held = [(key, p) for key, p, f in zip(queue.keys_KD.tolist(), queue.patients_K.tolist(), filled, strict=True) if f]
    assert sorted(held, key=lambda pair: pair[1]) == sorted(last, key=lambda pair: pair[1])


def test_unfilled_places_are_no_negatives() -> None:
    queue = Queue(5, 4)
    queue.enqueue(unit(2, 4), torch.tensor([10, 11]))
    keep = negatives_of(torch.tensor([-1, 10]), queue.patients_K, queue.valid_K)
    assert keep.tolist() == [[True, True, False, False, False], [False, True, False, False, False]]


def test_patients_beyond_float32s_integers_stay_apart() -> None:
    """As float32, 19999999 and 20000000 are one number; MIMIC's ids are of that size."""
    queue = Queue(2, 4)
    queue.enqueue(unit(2, 4), torch.tensor([19_999_999, 20_000_000]))
    keep = negatives_of(torch.tensor([20_000_000]), queue.patients_K, queue.valid_K)
    assert keep.tolist() == [[True, False]]


def test_the_queue_travels_in_the_state() -> None:
    queue, other = Queue(5, 4), Queue(5, 4)
    queue.enqueue(unit(3, 4), torch.tensor([1, 2, 3]))
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.enqueue(unit(4, 4, seed=1), torch.tensor([4, 5, 6, 7]))
    assert torch.equal(queue.keys_KD, other.keys_KD)
    assert torch.equal(queue.patients_K, other.patients_K)
