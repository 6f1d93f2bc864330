"""Lines through points in the plane of two objectives. Every function takes many sets of points at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from holdfast.records.arrays import Bools, Floats

BENT = "a bend is not excluded"  # begins what is said of a distance from a line that a curve explains
NO_VARIATION = 1e-20  # squared score points: smaller variances are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Lines y = slope · x + intercept; arrays over the sets of points."""

    slope: Floats
    intercept: Floats


def _moments(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    mean_x, mean_y = x.mean(axis=-1), y.mean(axis=-1)
    dx, dy = x - mean_x[..., None], y - mean_y[..., None]
    return mean_x, mean_y, (dx * dx).mean(axis=-1), (dx * dy).mean(axis=-1), (dy * dy).mean(axis=-1)


def ordinary_lines(x: Floats, y: Floats) -> Lines:
    """Least squares of y on x; the last axis runs over points. NaN where x does not vary."""
    mean_x, mean_y, sxx, sxy, _ = _moments(x, y)
    slope = np.divide(sxy, sxx, out=np.full(np.shape(sxx), np.nan), where=sxx > NO_VARIATION)
    return Lines(slope=slope, intercept=mean_y - slope * mean_x)


def slope_p_value(r: float, points: int) -> float:
    """The p value of a slope of zero under independent normal errors, from Pearson's r; needs 3 points or more."""
    degrees = points - 2
    t = abs(r) * np.sqrt(degrees / max(1 - r * r, np.finfo(np.float64).tiny))
    return float(2 * stdtr(degrees, -t))


def errors_in_both(x: Floats, y: Floats, covariance: tuple[float, float, float]) -> Lines:
    """Deming lines: errors in both axes with one covariance (xx, xy, yy), known up to a factor.

    The normal n minimises n'Sn / n'Cn for scatter S and covariance C: the smaller root of det(S − λC) = 0. NaN
    where the line is vertical or the points do not vary. The last axis runs over points.
    """
    cxx, cxy, cyy = covariance
    mean_x, mean_y, sxx, sxy, syy = _moments(x, y)
    a = cxx * cyy - cxy * cxy
    b = sxx * cyy + syy * cxx - 2 * sxy * cxy
    c = sxx * syy - sxy * sxy
    root = np.sqrt(np.maximum(b * b - 4 * a * c, 0.0))
    smallest = np.divide(2 * c, b + root, out=np.zeros_like(b), where=b + root > 0)
    # Both rows of (S − λC) are parallel; the longer one gives the direction without cancellation.
    pxx, pxy, pyy = sxx - smallest * cxx, sxy - smallest * cxy, syy - smallest * cyy
    upper = pxx * pxx + pxy * pxy >= pxy * pxy + pyy * pyy
    rise = np.where(upper, pxy, pyy)
    run = np.where(upper, pxx, pxy)
    defined = np.abs(run) > 1e-12 * np.maximum(np.abs(rise), 1e-300)
    defined &= sxx + syy > NO_VARIATION
    slope = np.divide(rise, run, out=np.full(np.shape(sxx), np.nan), where=defined)
    return Lines(slope=slope, intercept=mean_y - slope * mean_x)


def correlations(x: Floats, y: Floats) -> Floats:
    """Pearson's r of each set of points; NaN where one coordinate does not vary."""
    _, _, sxx, sxy, syy = _moments(x, y)
    scale = np.sqrt(sxx * syy)
    found = np.divide(sxy, scale, out=np.full(np.shape(sxx), np.nan), where=scale > 1e-12)
    return np.asarray(found, dtype=np.float64)


def noiseless_correlation(x: Floats, y: Floats, noise: Floats) -> float:
    """Pearson's r of one set of points with the scatter that noise adds taken off; ±1 where nothing else is left.

    ``noise`` is the covariance of all coordinates, first every x, then every y. Centred points scatter by the
    noise that they do not share: E S = S₀ + tr(M C) / k with M = I − 11'/k for each block C.
    """
    count = x.shape[-1]
    _, _, sxx, sxy, syy = _moments(x, y)

    def added(block: Floats) -> float:
        return float((np.trace(block) - block.sum() / count) / count)

    cxx, cyy = sxx - added(noise[:count, :count]), syy - added(noise[count:, count:])
    cxy = sxy - added(noise[:count, count:])
    if cxx <= 0 or cyy <= 0:
        return -1.0 if cxy < 0 else 1.0
    return float(np.clip(cxy / np.sqrt(cxx * cyy), -1.0, 1.0))


def signed_distances(lines: Lines, x: Floats, y: Floats) -> Floats:
    """The mean orthogonal distance of points from their line, in score points; positive is above the line."""
    residual = y - lines.slope[..., None] * x - lines.intercept[..., None]
    return np.asarray(residual.mean(axis=-1) / np.sqrt(1 + lines.slope**2), dtype=np.float64)


def bends(lines: Lines, x: Floats, y: Floats) -> Floats:
    """How far the middle of a parabola through points lies beyond the chord of its ends, in score points.

    The parabola is fitted by least squares of the distances from the line on the places along it; positive is above
    the line. The last axis runs over points. NaN where three coefficients cannot be told from them.
    """
    along, off = _turned(lines, x, y)
    _, _, curve = _parabolas(along, off)
    return np.asarray(-curve[..., 2] * (np.ptp(along, axis=-1) / along.std(axis=-1)) ** 2 / 4, dtype=np.float64)


def curve_distances(lines: Lines, x: Floats, y: Floats, tested: Bools) -> Floats:
    """The mean distance of the ``tested`` points (points,) from the parabola through all others, as in ``bends``."""
    along, off = _turned(lines, x, y)
    middle, scale, curve = _parabolas(along[..., ~tested], off[..., ~tested])
    place = (along[..., tested] - middle[..., None]) / scale[..., None]
    height = curve[..., 0, None] + curve[..., 1, None] * place + curve[..., 2, None] * place**2
    return np.asarray((off[..., tested] - height).mean(axis=-1), dtype=np.float64)


def _turned(lines: Lines, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Coordinates along a line and off it."""
    slope, length = lines.slope[..., None], np.sqrt(1 + lines.slope[..., None] ** 2)
    return (x + slope * y) / length, (y - slope * x - lines.intercept[..., None]) / length


def _parabolas(along: Floats, off: Floats) -> tuple[Floats, Floats, Floats]:
    """Middle and scale of the places, and the three coefficients of the parabola in the places so scaled."""
    middle, scale = along.mean(axis=-1), along.std(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        place = (along - middle[..., None]) / scale[..., None]
    powers = np.stack([np.ones_like(place), place, place**2], axis=-1)
    table = np.swapaxes(powers, -1, -2) @ powers
    sums = (np.swapaxes(powers, -1, -2) @ off[..., None])[..., 0]
    known = np.isfinite(table).all(axis=(-1, -2))
    known &= np.linalg.det(np.where(known[..., None, None], table, 0.0)) > 1e-9
    safe = np.where(known[..., None, None], table, np.eye(3))
    found = np.linalg.solve(safe, np.where(known[..., None], sums, np.nan)[..., None])[..., 0]
    return middle, scale, np.asarray(found, dtype=np.float64)


def non_dominated(x: Floats, y: Floats) -> Bools:
    """Whether no other point of its set is at least as good on both coordinates and better on one.

    The last axis runs over points.
    """
    found = np.ones(x.shape, dtype=np.bool_)
    for point in range(x.shape[-1]):
        px, py = x[..., point, None], y[..., point, None]
        beaten = (x >= px) & (y >= py) & ((x > px) | (y > py))
        found[..., point] = ~beaten.any(axis=-1)
    return found
