"""Which images of a class stand out by their features: what defenses and detectors of a training set share."""

from __future__ import annotations

import torch
from torch import Tensor

from mnp_plugin.contracts import DefenseContext


def spectral_scores(features: Tensor) -> Tensor:
    """How far each of ``features`` [N, D] lies along their first singular vector, centred and squared, [N].

    Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv 1811.00636.
    """
    centred = features - features.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    found: Tensor = (centred @ directions[0]).square()
    return found


def principal(features: Tensor, dims: int) -> Tensor:
    """The first ``dims`` principal components of ``features`` [N, D], [N, dims]; fewer where there are no more."""
    centred = features - features.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    found: Tensor = centred @ directions[:dims].T
    return found


def smaller_cluster(points: Tensor, tools: DefenseContext) -> Tensor:
    """Which of ``points`` [N, D] lie in the smaller of two clusters, bool [N] on the CPU: 2-means, best of 10 starts."""
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (), generator=tools.generator, device=tools.device))
    second = torch.from_numpy(KMeans(2, n_init=10, random_state=seed).fit(points.cpu().double().numpy()).labels_) == 1
    return second if second.sum() * 2 <= len(second) else ~second
