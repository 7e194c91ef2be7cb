"""Contrastive losses, the queue of keys that they draw negatives from, and how much each negative weighs.

B: queries of a batch, K: negatives, D: width of the projection, L: labels. Queries and keys have unit length.
"""

from typing import Literal

import torch
from torch import Tensor, nn


def contrast_logits(
    q_BD: Tensor,
    k_BD: Tensor,
    negatives_KD: Tensor,
    keep_BK: Tensor,
    temperature: float,
    log_weights_BK: Tensor | None = None,
) -> Tensor:
    """What a query is told its key by: the logit of its positive, then those of the negatives.

    l+ = q.k+ / tau and l_j = q.k_j / tau + log w_j. The weight is added after the division by the temperature: added
    before, it would count as w^(1 / tau), and a ratio of 9 as one of 4e13 at tau = 0.07.

    Args:
        q_BD: Queries of unit length.
        k_BD: The positive key of each query, of unit length.
        negatives_KD: Keys of unit length that any query may be contrasted with.
        keep_BK: True where key j is a negative of query i.
        temperature: tau, above 0.
        log_weights_BK: log w, finite where kept; all negatives weigh 1 where it is None.

    Returns:
        Logits (B, 1 + K), -inf where not kept; float32, because bfloat16 keeps 8 bits and 1 / tau multiplies its error.
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        q_BD, k_BD, negatives_KD = q_BD.float() / temperature, k_BD.float(), negatives_KD.float()
        negative_BK = q_BD @ negatives_KD.T
        if log_weights_BK is not None:
            negative_BK = negative_BK + log_weights_BK
        return torch.cat([(q_BD * k_BD).sum(dim=1, keepdim=True), negative_BK.masked_fill(~keep_BK, -torch.inf)], dim=1)


def info_nce(logits_BN: Tensor) -> Tensor:
    """InfoNCE: He et al. 2020 (Momentum Contrast), equation 1, with weights as the logits have them; a float32 scalar.

    L = -log [ exp(l+) / (exp(l+) + sum over kept negatives j of exp(l_j)) ], the mean over the batch. A query without
    negatives has loss 0 and gradient 0.

    Args:
        logits_BN: Of `contrast_logits`: the positive's first.
    """
    return (logits_BN.logsumexp(dim=1) - logits_BN[:, 0]).mean()


def negatives_of(patients_B: Tensor, patients_K: Tensor, valid_K: Tensor) -> Tensor:
    """Which keys are negatives of which queries, bool (B, K): filled ones, of another patient.

    Keys of the query's own patient (the same image some epochs ago, or another film of the same chest) are not
    different; as negatives they teach the encoder to tell a patient from herself.
    """
    return valid_K[None, :] & (patients_B[:, None] != patients_K[None, :])


@torch.no_grad()
def log_weights(
    labels_BL: Tensor,
    labels_KL: Tensor,
    keep_BK: Tensor,
    mode: Literal["exp", "mass"] = "exp",
    beta: float = 1.0,
    hard_share: float = 0.9,
    unknown: Literal["absent", "left_out"] = "absent",
) -> Tensor:
    """How much more or less a negative weighs for being ill of something else; log w, float32 (B, K), 0 where not kept.

    Mode `exp`: w is proportional to exp(beta * d), d = 1 - |A and B| / |A or B| the Jaccard distance of the two sets of
    findings. It is an additive margin of tau * beta * d on the cosine; beta = 0 is MoCo.

    Mode `mass`: equations 5 and 6 of the DisCeRn report. Negatives that share a finding with the query (S) have
    together the share 1 - `hard_share` of the weight, those that share none (H) `hard_share`: w_S = (1 - rho) n / |S|,
    w_H = rho n / |H|. Where H is already more than rho of the n, this would turn the rule over and let the alike weigh
    more, which is not its intent; the weights are then 1, as they are where S or H is empty.

    A negative is compared only where it and the query have a finding each. An empty set is neutral, w = 1: an image
    without findings is not known to be different from another, so "No Finding" belongs among the labels. Over the
    compared negatives of a query, and so over all that it keeps, weights have a mean of 1: the loss keeps its scale.

    Args:
        labels_BL: Of the queries: 1, 0, NaN or -1 unknown.
        labels_KL: Of the negatives.
        keep_BK: True where key j is a negative of query i.
        mode: `exp` or `mass`.
        beta: Of mode `exp`, 0 or above.
        hard_share: rho of mode `mass`, between 0 and 1.
        unknown: `absent` takes what is unknown for absent, as the report does: what a radiologist does not mention
            she did not see. `left_out` compares two images by the labels that are known of both.
    """
    with torch.autocast(labels_BL.device.type, enabled=False):
        has_BL, has_KL = ((labels == 1).float() for labels in (labels_BL, labels_KL))
        shared_BK = has_BL @ has_KL.T
        if unknown == "absent":
            query_BK, key_BK = has_BL.sum(dim=1, keepdim=True), has_KL.sum(dim=1)[None, :]
        else:
            query_BK = has_BL @ (labels_KL >= 0).float().T
            key_BK = (labels_BL >= 0).float() @ has_KL.T
        compared_BK = keep_BK & (query_BK > 0) & (key_BK > 0)
        n_B1 = compared_BK.sum(dim=1, keepdim=True).clamp(min=1)
        if mode == "exp":
            either_BK = (query_BK + key_BK - shared_BK).clamp(min=1.0)
            margin_BK = (beta * (1.0 - shared_BK / either_BK)).masked_fill_(~compared_BK, -torch.inf)
            weight_BK = margin_BK - (margin_BK.logsumexp(dim=1, keepdim=True) - n_B1.log())
        else:
            alike_BK = shared_BK > 0
            n_alike_B1 = (compared_BK & alike_BK).sum(dim=1, keepdim=True)
            n_hard_B1 = (compared_BK & ~alike_BK).sum(dim=1, keepdim=True)
            hard_B1 = (hard_share * n_B1 / n_hard_B1.clamp(min=1)).log()
            soft_B1 = ((1.0 - hard_share) * n_B1 / n_alike_B1.clamp(min=1)).log()
            graded_B1 = (n_alike_B1 > 0) & (n_hard_B1 > 0) & (hard_B1 > 0)
            weight_BK = torch.where(alike_BK, soft_B1, hard_B1).masked_fill_(~graded_B1, 0.0)
        return weight_BK.masked_fill_(~compared_BK, 0.0)


class Queue(nn.Module):
    """The last K keys, whose they are and what is known of them; an unfilled place is never a negative.

    He et al. 2020, section 3.2 (dictionary as a queue). Any batch size goes with any K: places wrap around. Patients
    are int64, because numbers above 2^24 collide as float32.

    Attributes:
        keys_KD: Keys, float32.
        patients_K: The patient of each key as a number, int64; -1 where unfilled.
        labels_KL: The labels of each key, float32: 1, 0, -1 unknown, since two states with a NaN are never equal.
        valid_K: True where filled.
        head: The place that is written next, int64 scalar.
    """

    keys_KD: Tensor
    patients_K: Tensor
    labels_KL: Tensor
    valid_K: Tensor
    head: Tensor

    def __init__(self, size: int, dim: int, n_labels: int = 0) -> None:
        super().__init__()
        self.register_buffer("keys_KD", torch.zeros(size, dim))
        self.register_buffer("patients_K", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("labels_KL", torch.full((size, n_labels), -1.0))
        self.register_buffer("valid_K", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, k_BD: Tensor, patients_B: Tensor, labels_BL: Tensor) -> None:
        """Write a batch of keys over the oldest ones; of more than K keys the last K stay."""
        size = len(self.keys_KD)
        k_BD, patients_B, labels_BL = k_BD[-size:], patients_B[-size:], labels_BL[-size:]
        places_B = (self.head + torch.arange(len(k_BD), device=k_BD.device)) % size
        self.keys_KD[places_B] = k_BD.to(self.keys_KD.dtype)
        self.patients_K[places_B] = patients_B
        self.labels_KL[places_B] = labels_BL.nan_to_num(nan=-1.0)
        self.valid_K[places_B] = True
        self.head.copy_((self.head + len(k_BD)) % size)
