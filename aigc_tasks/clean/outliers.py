"""Samples that are far from all others in the embedding of the data profile."""

from __future__ import annotations

import numpy as np

FITTED = 10_000  # samples by which the middle and the spread are estimated
TRIMMED = 0.02  # share of them that is left out in the second estimate: outliers hide themselves by widening the spread
FAR = 8.0  # median absolute deviations above the median distance


class Distance:
    """Mahalanobis' distance (1936) from the middle of ``embeddings``, float32 N×D, estimated twice to be robust."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self.fit(embeddings)
        distances = self(embeddings)
        self.fit(embeddings[distances <= np.quantile(distances, 1 - TRIMMED)])
        distances = self(embeddings)
        middle = np.median(distances)
        self.limit = float(middle + FAR * max(np.median(np.abs(distances - middle)), 1e-6))

    def fit(self, embeddings: np.ndarray) -> None:
        self.mean = embeddings.mean(axis=0, dtype=np.float64)
        centred = embeddings - self.mean
        covariance = centred.T @ centred / max(1, len(embeddings) - 1)
        ridge = 1e-2 * np.trace(covariance) / len(covariance) + 1e-9  # there may be fewer samples than dimensions
        self.inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        centred = embeddings - self.mean
        return np.sqrt(np.maximum(0, np.einsum("nd,de,ne->n", centred, self.inverse, centred, optimize=True)))
