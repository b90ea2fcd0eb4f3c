"""Directions in latent space that a generator reacts to most, in closed form: nothing is learned, no image is rendered.

SeFa ("Closed-form factorization of latent semantics in GANs", Shen and Zhou 2021): eigenvectors of A^T A, A the
weights with which the first linear layer reads the latent. GANSpace (Härkönen et al. 2020): principal components of a
layer's activations, carried back to the latent by least squares.

    directions(out="directions.safetensors", method="pca", k=10)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.numbers import check_whole
from shards.progress import Progress
from synthgen.adapters import DEFAULT_GENERATOR, check_truncation, load_generator
from synthgen.draws import draw_labels, draw_truncated_normal
from synthgen.vectors import VectorSet, check_vector_path, write_vectors

if TYPE_CHECKING:
    import torch

    from synthgen.adapters.protocol import LayeredGenerator

METHODS = ("sefa", "pca")
_BATCH = 100


def directions(
    *,
    out: str | Path,
    method: str = "sefa",
    k: int = 10,
    layer: int | None = None,
    samples: int | None = None,
    generator: str = DEFAULT_GENERATOR,
    weights: str | Path | None = None,
    truncation: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> VectorSet:
    """Finds k orthogonal or nearly orthogonal unit directions and writes them to `out`, the strongest first.

    Args:
        method: sefa, or pca.
        layer: pca: 0 for the first linear layer (as GANSpace does for BigGAN), or a block after it.  [0]
        samples: pca: latents whose activations are looked at.  [2000]
        truncation, seed: pca: of those latents.  [1, 0]

    Raises:
        ValueError: no such method, layer, or generator, or more directions than there can be.
    """
    path = check_vector_path(out)
    if method not in METHODS:
        raise ValueError(f"method '{method}': give one of {', '.join(METHODS)}")
    for name, value in (("layer", layer), ("samples", samples), ("truncation", truncation), ("seed", seed)):
        if method != "pca" and value is not None:
            raise ValueError(f"{name} belongs to pca: omit --{name}, or give --method pca")
    from synthgen.adapters.protocol import LayeredGenerator
    from synthgen.devices import choose_device

    layer, samples = layer or 0, 2000 if samples is None else samples
    truncation = 1.0 if truncation is None else check_truncation(truncation)
    seed = check_whole("seed", seed or 0, 0)
    place = choose_device(device)
    loaded = load_generator(generator, weights=weights, truncation=truncation, device=place, dtype="float32")
    if not isinstance(loaded, LayeredGenerator):
        raise ValueError(
            f"{generator} does not show its layers: use other views (--views gaussian, ball, angular), or a function "
            "whose object has latent_weights (docs/bring-your-own-generator.md)"
        )
    k = check_whole("k", k, 1, loaded.latent_dim)
    layer = check_whole("layer", layer, 0, loaded.num_layers - 1)
    samples = check_whole("samples", samples, max(2 * loaded.latent_dim, 2 * loaded.num_classes), 100_000)
    settings: dict[str, Any] = {"method": method}
    if method == "sefa":
        matrix, shares = factorize_weights(loaded.latent_weights().double().cpu().numpy(), k=k)
    else:
        matrix, shares = analyse_activations(
            loaded, k=k, layer=layer, samples=samples, truncation=truncation, seed=seed, device=place, quiet=quiet
        )
        settings |= {"layer": layer, "samples": samples, "seed": seed, "truncation": truncation}
    settings["shares"] = [round(share, 5) for share in shares.tolist()]
    names = [f"{method}{number}" for number in range(k)]
    return write_vectors(
        path, kind="directions", names=names, matrix=matrix.astype(np.float32), generator=loaded, settings=settings
    )


def factorize_weights(weights: NDArray[np.float64], *, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SeFa: the k unit vectors [k, latent_dim] that A [outputs, latent_dim] lengthens most, and their shares of |A|^2.

    Eigenvectors of A^T A by falling eigenvalue (Shen and Zhou 2021). A sign is free: the largest
    coordinate is made positive.
    """
    values, vectors = np.linalg.eigh(weights.T @ weights)
    order = np.argsort(values)[::-1][:k]
    return _with_fixed_signs(vectors.T[order]), values[order] / values.sum()


def analyse_activations(
    generator: LayeredGenerator,
    *,
    k: int,
    layer: int,
    samples: int,
    truncation: float,
    seed: int,
    device: torch.device,
    quiet: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """GANSpace: the k latent directions [k, latent_dim] of a layer's principal components, and shares of variance.

    Classes are taken by turns and their means taken out, so that a component is not the difference of two classes.
    """
    import torch

    latents = truncation * draw_truncated_normal(
        seed=seed, stream="directions", first=0, count=samples, dim=generator.latent_dim
    )
    labels = draw_labels(seed=seed, first=0, count=samples, classes=tuple(range(generator.num_classes)))
    parts = []
    with Progress(total=samples, unit="latents", label="reading activations", quiet=quiet) as progress:
        for first in range(0, samples, _BATCH):
            rows = slice(first, first + _BATCH)
            z = torch.from_numpy(latents[rows].astype(np.float32)).to(device)
            y = torch.from_numpy(labels[rows]).clamp(min=0).to(device)
            parts.append(generator.activations(z, y, layer=layer).cpu().numpy())
            progress.advance(len(z))
    activations = np.concatenate(parts).astype(np.float64)
    for label in np.unique(labels):
        chosen = labels == label
        activations[chosen] -= activations[chosen].mean(axis=0)
        latents[chosen] -= latents[chosen].mean(axis=0)
    coordinates, shares = principal_coordinates(activations, k=k)
    return carry_back(coordinates, latents), shares


def principal_coordinates(
    activations: NDArray[np.float64], *, k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates [N, k] of centred rows [N, features] along k principal components, and their shares of variance.

    From the smaller of the two Gram matrices, so that many features cost no more than the rows do.
    """
    count, features = activations.shape
    if features <= count:
        values, vectors = np.linalg.eigh(activations.T @ activations)
        order = np.argsort(values)[::-1][:k]
        return activations @ vectors[:, order], values[order] / values.sum()
    values, vectors = np.linalg.eigh(activations @ activations.T)
    order = np.argsort(values)[::-1][:k]
    return vectors[:, order] * np.sqrt(values[order].clip(min=0)), values[order] / values.sum()


def carry_back(coordinates: NDArray[np.float64], latents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit directions [k, latent_dim] U of least squares |coordinates U - latents|^2 (Härkönen et al. 2020)."""
    solution = np.linalg.lstsq(coordinates, latents, rcond=None)[0]
    return _with_fixed_signs(solution / np.linalg.norm(solution, axis=1, keepdims=True))


def _with_fixed_signs(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return rows * np.sign(largest)
