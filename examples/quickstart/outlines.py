"""Outlines of shapes and distractors: rings, polygons (P, 2) of about unit radius. Rings behind the first are holes."""

import numpy as np
from numpy.random import Generator

Rings = list[np.ndarray]


def _polar(radii: list[float] | np.ndarray, start: float = -90) -> np.ndarray:
    """Points at equal angles with these distances from the center, from ``start`` degrees on (-90 is the top)."""
    angles = np.radians(start) + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii)[:, None]


def _cross(rng: Generator) -> Rings:
    arm = rng.uniform(0.26, 0.36)
    corner, quarter = np.array([(1, -arm), (1, arm), (arm, arm)]), np.array([[0, 1], [-1, 0]])
    return [np.concatenate([corner @ np.linalg.matrix_power(quarter, i) for i in range(4)])]


OUTLINES = {
    "circle": lambda rng: [_polar([0.9] * 48)],
    "ring": lambda rng: [_polar([0.9] * 48), _polar([rng.uniform(0.45, 0.62)] * 48)],
    "triangle": lambda rng: [_polar([1.0] * 3)],
    "square": lambda rng: [_polar([1.0] * 4, start=-45)],
    "star": lambda rng: [_polar([1.0, rng.uniform(0.4, 0.5)] * 5)],
    "cross": _cross,
}


def distractor(rng: Generator) -> Rings:
    """A bar, a half disc, a crescent-like arc or a random blob: shapes of no class."""
    kind = rng.integers(4)
    if kind == 0:
        width = rng.uniform(0.06, 0.2)
        return [np.array([(-1.3, -width), (1.3, -width), (1.3, width), (-1.3, width)])]
    if kind == 1:
        return [_polar([0.9] * 48)[:25]]
    if kind == 2:
        outer = _polar([0.9] * 48)[: rng.integers(14, 30)]
        return [np.concatenate([outer, outer[::-1] * rng.uniform(0.6, 0.8)])]
    return [_polar(rng.uniform(0.35, 1.0, rng.integers(5, 9)))]
