"""Contrastive losses and the queue of keys that they draw negatives from.

B: queries of the batch, K: negatives, D: width of the projection. Queries and keys have unit length.
"""

import torch
from torch import Tensor, nn


def info_nce(q_BD: Tensor, k_BD: Tensor, negatives_KD: Tensor, keep_BK: Tensor, temperature: float) -> Tensor:
    """InfoNCE: He et al. 2020 (Momentum Contrast), equation 1; the mean over the batch.

    L = -log [ exp(q.k+ / tau) / (exp(q.k+ / tau) + sum over kept negatives j of exp(q.k_j / tau)) ]

    Args:
        q_BD: Queries of unit length.
        k_BD: The positive key of each query, of unit length.
        negatives_KD: Keys of unit length that any query may be contrasted with.
        keep_BK: True where key j is a negative of query i. A query without any has loss 0 and gradient 0.
        temperature: tau, above 0.

    Returns:
        A scalar in float32; logits are float32 too, because bfloat16 keeps 8 bits and tau multiplies its error.
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        q_BD, k_BD, negatives_KD = q_BD.float(), k_BD.float(), negatives_KD.float()
        positive_B1 = (q_BD * k_BD).sum(dim=1, keepdim=True)
        negative_BK = (q_BD @ negatives_KD.T).masked_fill(~keep_BK, -torch.inf)
        logits_BL = torch.cat([positive_B1, negative_BK], dim=1) / temperature
        return (logits_BL.logsumexp(dim=1) - logits_BL[:, 0]).mean()


class Queue(nn.Module):
    """The last K keys and whose they are; it starts empty, and an unfilled place is never a negative.

    He et al. 2020, section 3.2 (dictionary as a queue). Any batch size goes with any K: places wrap around.

    Attributes:
        keys_KD: Keys, float32.
        patients_K: The patient of each key as a number, int64; -1 where unfilled.
        valid_K: True where filled.
        head: The place that is written next, int64 scalar.
    """

    keys_KD: Tensor
    patients_K: Tensor
    valid_K: Tensor
    head: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys_KD", torch.zeros(size, dim))
        self.register_buffer("patients_K", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("valid_K", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, k_BD: Tensor, patients_B: Tensor) -> None:
        """Write a batch of keys over the oldest ones; of more than K keys the last K stay."""
        size = len(self.keys_KD)
        k_BD, patients_B = k_BD[-size:], patients_B[-size:]
        places_B = (self.head + torch.arange(len(k_BD), device=k_BD.device)) % size
        self.keys_KD[places_B] = k_BD.detach().to(self.keys_KD.dtype)
        self.patients_K[places_B] = patients_B
        self.valid_K[places_B] = True
        self.head.copy_((self.head + len(k_BD)) % size)


def negatives_of(patients_B: Tensor, patients_K: Tensor, valid_K: Tensor) -> Tensor:
    """Which keys are negatives of which queries, bool (B, K): filled ones, of another patient.

    Keys of the query's own patient (the same image some epochs ago, or another film of the same chest) are not
    different; as negatives they teach the encoder to tell a patient from herself.
    """
    return valid_K[None, :] & (patients_B[:, None] != patients_K[None, :])
