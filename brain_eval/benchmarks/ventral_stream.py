"""A simulated ventral stream, after the standard hierarchical models, computed from pixels.

V1: Gabor energy (Adelson & Bergen 1985) with contrast normalisation (Heeger 1992). V2: products of
V1 channels pooled over space, the texture statistics of Portilla & Simoncelli 2000 (Freeman et al.
2013). V4: curved contours, geometric means of V1 energy along arcs, pooled by maximum (Pasupathy &
Connor 2002; Cadieu et al. 2007). IT: units tuned to views of objects in a space of position-tolerant
contour features that separates the objects (Riesenhuber & Poggio 1999). It is a stand-in with known
truth, not a model of data: nothing here was fitted to neurons.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AREAS = ("V1", "V2", "V4", "IT")

#: Gabor wavelengths in pixels of the 64 x 64 image; 8 orientations, 22.5 degrees apart.
WAVELENGTHS = (4.0, 8.0, 16.0)
N_ORIENTATIONS = 8
#: Radii of the arcs, in cells of the 32 x 32 energy maps.
RADII = (2.0, 4.0, 7.0)
#: Angles along an arc, in steps of 22.5 degrees from its middle.
ARC = (-2, -1, 0, 1, 2)
N_DIRECTIONS = 2 * N_ORIENTATIONS

Maps = NDArray[np.float32]


def gabor_energy(images: NDArray[np.uint8]) -> Maps:
    """Return contrast-normalised Gabor energy, (n, scales, orientations, 32, 32) float32.

    Args:
        images: (n, 64, 64, 3) uint8.
    """
    from scipy import fft

    luminance = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255
    luminance -= luminance.mean(axis=(1, 2), keepdims=True)
    # The Fourier transform is periodic: fade to the mean at the border, or the wrap makes an edge.
    fade = np.minimum(1, np.minimum(np.arange(64) + 0.5, 63.5 - np.arange(64)) / 6).astype(np.float32)
    spectrum = fft.fft2(luminance * fade[:, None] * fade, axes=(1, 2))
    energy = np.empty((len(images), len(WAVELENGTHS), N_ORIENTATIONS, 32, 32), dtype=np.float32)
    for scale, wavelength in enumerate(WAVELENGTHS):
        for orientation in range(N_ORIENTATIONS):
            analytic = fft.ifft2(spectrum * _gabor(wavelength, orientation), axes=(1, 2))
            energy[:, scale, orientation] = np.abs(analytic).reshape(-1, 32, 2, 32, 2).mean(axis=(2, 4))
    # Divisive normalisation by the whole image's energy at the same scale.
    return energy / (energy.mean(axis=(2, 3, 4), keepdims=True) + np.float32(1e-3))


def _gabor(wavelength: float, orientation: int) -> Maps:
    """One half of the frequency plane, so that the filtered image is analytic: its modulus is the energy.

    `orientation` counts the direction of the contour, not of the carrier, in steps of 22.5 degrees.
    """
    frequency = np.fft.fftfreq(64)
    y, x = np.meshgrid(frequency, frequency, indexing="ij")
    angle = np.pi * orientation / N_ORIENTATIONS + np.pi / 2
    along = x * np.cos(angle) + y * np.sin(angle)
    across = -x * np.sin(angle) + y * np.cos(angle)
    # Half an octave wide along the carrier, 20 degrees across it.
    bell = ((along - 1 / wavelength) / 0.35) ** 2 + (across / 0.35) ** 2
    return np.exp(-0.5 * bell * wavelength**2).astype(np.float32)


def _pool_mean(maps: Maps, size: int) -> Maps:
    """Means over size x size blocks of the last two axes."""
    *front, height, width = maps.shape
    return maps.reshape(*front, height // size, size, width // size, size).mean(axis=(-3, -1))


def v1(energy: Maps) -> Maps:
    """Gabor energy on an 8 x 8 grid: (n, 3 scales x 8 orientations x 64 positions)."""
    return _pool_mean(energy, 4).reshape(len(energy), -1)


def _windows(maps: Maps) -> Maps:
    """Means over 3 x 3 half-overlapping windows of 16 x 16 cells of the last two axes."""
    quarters = _pool_mean(maps, 8)
    rows = quarters[..., 1:, :] + quarters[..., :-1, :]
    return (rows[..., 1:] + rows[..., :-1]) / 4


def v2(energy: Maps) -> Maps:
    """Correlations of orientation channels within windows: (n, 3 scales x 28 pairs x 9 windows).

    The mean product of two channels about their means, over the channels' deviations in that window,
    rectified: which orientations meet, whatever their contrast.
    """
    means = _windows(energy)
    deviations = np.sqrt(np.maximum(_windows(energy**2) - means**2, 0)) + np.float32(0.1)
    correlations = [
        (_windows(energy[:, :, a] * energy[:, :, b]) - means[:, :, a] * means[:, :, b])
        / (deviations[:, :, a] * deviations[:, :, b])
        for a in range(N_ORIENTATIONS)
        for b in range(a)
    ]
    return np.maximum(np.stack(correlations, axis=1), 0).reshape(len(energy), -1)


def contours(energy: Maps) -> Maps:
    """Evidence for an arc of each radius and direction, (n, 3 radii x 16 directions, 32, 32).

    The geometric mean, over five points of the arc around each place, of the energy of contours
    tangent to it: every piece of the arc has to be there.
    """
    # Fine and medium scales carry an outline.
    log = np.log(energy[:, 0] + energy[:, 1] + np.float32(0.1))
    step = np.pi / N_ORIENTATIONS
    arcs = np.empty((len(energy), len(RADII) * N_DIRECTIONS, 32, 32), dtype=np.float32)
    for i, radius in enumerate(RADII):
        for direction in range(N_DIRECTIONS):
            total = np.zeros_like(log[:, 0])
            for offset in ARC:
                angle = (direction + offset) * step
                shift = (-round(radius * np.sin(angle)), -round(radius * np.cos(angle)))
                tangent = (direction + offset + N_ORIENTATIONS // 2) % N_ORIENTATIONS
                total += np.roll(log[:, tangent], shift, axis=(1, 2))
            arcs[:, i * N_DIRECTIONS + direction] = np.exp(total / len(ARC))
    return arcs


def v4(arcs: Maps) -> Maps:
    """Strongest arc of each kind in a quarter of the image, over the mean of all kinds: (n, 48 x 4)."""
    strongest = arcs.reshape(*arcs.shape[:2], 2, 16, 2, 16).max(axis=(3, 5))
    return (strongest / strongest.mean(axis=1, keepdims=True)).reshape(len(arcs), -1)


def _anywhere(arcs: Maps) -> NDArray[np.float64]:
    """Position-tolerant contour features, (n, features) float64: what arcs there are, not where."""
    flat = arcs.reshape(*arcs.shape[:2], -1)
    squares = flat**2
    often = np.einsum("nax,nax->na", squares, squares) / flat.shape[2]
    return np.log(np.concatenate([flat.max(axis=2), often**0.25], axis=1).astype(np.float64))


@dataclass(frozen=True)
class InferotemporalCortex:
    """View-tuned units, their objects learnt from examples (regularised linear discriminants).

    Attributes:
        mean, scale: (features,) of the contour features over the examples.
        weights: (features, classes) evidence for each object.
        views: (units, classes) the examples' evidence, the units' preferred points.
        width: distance at which a unit's response has fallen to exp(-1/2).
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    views: NDArray[np.float64]
    width: float

    @classmethod
    def learn(cls, images: NDArray[np.uint8], labels: NDArray[np.intp]) -> "InferotemporalCortex":
        """Learn from (n, 64, 64, 3) example images and their (n,) class numbers; one unit per example."""
        features = _anywhere(contours(gabor_energy(images)))
        mean, scale = features.mean(axis=0), features.std(axis=0)
        z = (features - mean) / scale
        targets = np.eye(labels.max() + 1)[labels]
        ridge = 0.05 * len(z) * np.eye(z.shape[1])
        weights = np.linalg.solve(z.T @ z + ridge, z.T @ (targets - targets.mean(axis=0)))
        views = z @ weights
        distances = np.linalg.norm(views[:, None] - views[None], axis=2)
        return cls(mean, scale, weights, views, float(np.median(distances)) / np.sqrt(2))

    def __call__(self, arcs: Maps) -> Maps:
        """Responses of the view-tuned units, (n, units), to the contour maps of n images."""
        evidence = (_anywhere(arcs) - self.mean) / self.scale @ self.weights
        squared = ((evidence[:, None] - self.views[None]) ** 2).sum(axis=2)
        return np.exp(-squared / (2 * self.width**2)).astype(np.float32)


def respond(images: NDArray[np.uint8], inferotemporal: InferotemporalCortex) -> dict[str, Maps]:
    """Return the noise-free responses of every area, area -> (n, units) float32, all non-negative."""
    energy = gabor_energy(images)
    arcs = contours(energy)
    return {"V1": v1(energy), "V2": v2(energy), "V4": v4(arcs), "IT": inferotemporal(arcs)}
