"""Computes k-means, and prototypes: the real points nearest to the centroids (Lloyd, 1982;
k-means++, Arthur and Vassilvitskii, 2007).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Points per block of distances, which bounds memory to _CHUNK x K floats
_MAX_ITERATIONS, _CHUNK = 50, 4096


def k_means(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Return centroids (K, d) of points (N, d): k-means++, then at most 50 iterations of Lloyd.
    Each costs O(N K d).

    Args:
        generator: draws the first centroids; on the CPU, where equal inputs give equal bytes.
    """
    centroids = _spread(points, num_clusters, generator)
    previous = torch.full((len(points),), -1)
    for _ in range(_MAX_ITERATIONS):
        cluster = nearest(points, centroids)
        # Equal clusters give equal centroids, so that nothing would change any more
        if torch.equal(cluster, previous):
            break
        previous = cluster
        counts = torch.bincount(cluster, minlength=num_clusters)
        sums = torch.zeros_like(centroids).index_add_(0, cluster, points)
        # A centroid without points stays where it is, so that K centroids remain
        centroids = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centroids)
    return centroids


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Return (N,) int64: the nearest of the centroids (K, d) to each of the points (N, d)."""
    return torch.cat([torch.cdist(part, centroids).argmin(1) for part in points.split(_CHUNK)])


def prototypes(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Return indices (K,) of the points (N, d) nearest to the centroids of k-means. A point that is
    nearest to two centroids goes to the first; the other takes its next nearest.
    """
    centroids = k_means(points, num_clusters, generator)
    is_taken = torch.zeros(len(points), dtype=torch.bool)
    chosen = []
    for centroid in centroids:
        distances = (points - centroid).square().sum(1).masked_fill(is_taken, torch.inf)
        chosen.append(int(distances.argmin()))
        is_taken[chosen[-1]] = True
    return torch.tensor(chosen)


def _spread(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Return first centroids (K, d) by k-means++. The first is a random point. The probability that
    a point becomes the next is proportional to its squared distance to the nearest centroid so far.
    """
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen, distances = [first], (points - points[first]).square().sum(1)
    for _ in range(num_clusters - 1):
        # All distances are 0 once every different point is a centroid: then any will do
        weights = distances if bool(distances.sum() > 0) else torch.ones_like(distances)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        distances = torch.minimum(distances, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]
