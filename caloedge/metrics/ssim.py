"""Structural similarity (SSIM, IEEE Trans. Image Process. 13 (2004) 600) of images, for losses and for figures alike."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW, SIGMA = 11, 1.5
"""Side and width σ of the Gaussian window, in pixels."""
C1, C2 = 0.01**2, 0.03**2
"""Stabilising constants for images of range 1."""


def ssim(image: Any, other_image: Any, rows: Any, columns: Any) -> Any:
    """Return the structural similarity (N,) of images (N, H, W) at a range of 1: the mean over all pixels.

    Images, `blur(H)` and `blur(W)` are all arrays of NumPy or all tensors of torch: two products with matrices blur an image,
    and on a processor their gradient takes a hundredth of the time of a convolution's with a single channel.
    """

    def blurred(images: Any) -> Any:
        return rows @ images @ columns.T

    mean, other_mean = blurred(image), blurred(other_image)
    variance = (blurred(image**2) - mean**2).clip(0)  # rounding makes it negative where an image is flat
    other_variance = (blurred(other_image**2) - other_mean**2).clip(0)
    covariance = blurred(image * other_image) - mean * other_mean
    light = (2 * mean * other_mean + C1) / (mean**2 + other_mean**2 + C1)
    structure = (2 * covariance + C2) / (variance + other_variance + C2)
    return (light * structure).mean((1, 2))


@cache
def blur(side: int) -> NDArray[np.float64]:
    """Return the matrix (side, side) that blurs one axis of an image, mirrored at its ends."""
    reach = WINDOW // 2
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIGMA) ** 2)
    mirrored = np.pad(np.eye(side), ((reach, reach), (0, 0)), "reflect")
    return np.asarray(sum(w * mirrored[i : i + side] for i, w in enumerate(weight / weight.sum())))
