"""Features of a frozen encoder, computed once: they are cached under a key of all that decides them.

features = extract_features(encoder, images.pixels, device=torch.device("cpu"), precision="bfloat16")
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from contrast.devices import in_precision
from contrast.encoders import SCALE, SHIFT, Encoder, to_encoder_layout
from contrast.images import LabelledImages
from shards.atomic import write_atomically

BATCH_SIZE = 500
FEATURES_FOLDER = "features"
FORMAT = 2
PIXEL_CONTROL_SIZE = 32
"""Side of the images that raw pixels are taken of, at most."""


@torch.inference_mode()
def extract_features(encoder: Encoder, pixels: ndarray, *, device: torch.device, precision: str) -> ndarray:
    """float32 [N, feature_dim] of uint8 [N, H, W, 3]: the backbone's output, without the projection head.

    The encoder is in evaluation mode while this runs and leaves as it came; no statistic of it changes.
    """
    was_training = encoder.training
    encoder.eval().to(device)
    features = np.empty((len(pixels), encoder.feature_dim), dtype=np.float32)
    for first in range(0, len(pixels), BATCH_SIZE):
        batch = torch.from_numpy(np.ascontiguousarray(pixels[first : first + BATCH_SIZE])).to(device)
        images = to_encoder_layout(batch.permute(0, 3, 1, 2).to(torch.float32) / 255)
        with in_precision(precision, device):
            output = encoder(images)
        features[first : first + BATCH_SIZE] = output.float().cpu().numpy()
    encoder.train(was_training)
    return features


def cached_features(
    encoder: Encoder, images: LabelledImages, *, folder: Path, device: torch.device, precision: str
) -> ndarray:
    """As `extract_features`, read from `folder` where the same weights have seen the same pixels before.

    The weights say neither how the input is scaled nor which torch computes with them: the key holds both as well.
    """
    deciding = (
        FORMAT, weights_sha256(encoder), SCALE, SHIFT, images.sha256, precision, device.type, torch.__version__
    )  # fmt: skip
    key = hashlib.sha256("/".join(map(str, deciding)).encode())
    path = folder / f"{key.hexdigest()[:32]}.npz"  # a zip archive, whose checksums tell damage
    if path.exists():
        try:
            with zipfile.ZipFile(path) as archive:
                return np.load(io.BytesIO(archive.read("features.npy")), allow_pickle=False)
        except MemoryError:
            raise
        except Exception:  # zipfile says many things about a damaged copy of what can be computed again
            pass
    features = extract_features(encoder, images.pixels, device=device, precision=precision)
    buffer = io.BytesIO()
    np.savez(buffer, features=features)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return features


def weights_sha256(encoder: Encoder) -> str:
    """Of all parameters and statistics, with their names and the class of every layer."""
    digest = hashlib.sha256(str(encoder).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pixel_features(pixels: ndarray) -> ndarray:
    """The control that has learnt nothing: float32 [N, pixels * 3] in [-1, 1], every image less its own mean.

    Without the mean cosine similarity is correlation, and kNN does clearly better than on raw pixels (CIFAR-10, 10,000
    labels: 39.7 against 31.0 %), which makes it the control worth beating.

    Larger images than 32 px are shrunk to that by area: the probes of 50,000 images of 256 px would take 40 GB a copy,
    and LiDAR at 128 px matrices of 19 GB.
    """
    flat = shrink_by_area(pixels, PIXEL_CONTROL_SIZE).reshape(len(pixels), -1).astype(np.float32) / 255
    return flat - flat.mean(axis=1, keepdims=True)


def shrink_by_area(pixels: ndarray, size: int) -> ndarray:
    """float32 [N, h, w, 3] of uint8 [N, H, W, 3], no side above `size`; images that small come back as they are.

    Every output pixel is the mean of the area that it covers, parts of pixels included.
    """
    if max(pixels.shape[1:3]) <= size:
        return pixels
    rows, columns = (_area_weights(side, min(side, size)) for side in pixels.shape[1:3])
    small = np.empty((len(pixels), len(rows), len(columns), 3), dtype=np.float32)
    for first in range(0, len(pixels), BATCH_SIZE):
        block = pixels[first : first + BATCH_SIZE].astype(np.float32)
        lower = rows @ block.reshape(len(block), block.shape[1], -1)  # [b, h, W * 3]
        small[first : first + BATCH_SIZE] = columns @ lower.reshape(len(block), len(rows), -1, 3)
    return small


def _area_weights(side: int, size: int) -> ndarray:
    """float32 [size, side]: the share that every input pixel has in every output pixel."""
    edges = np.arange(size + 1)[:, None] * (side / size)
    inputs = np.arange(side)
    overlap = np.minimum(edges[1:], inputs + 1) - np.maximum(edges[:-1], inputs)
    return (overlap.clip(min=0) * (size / side)).astype(np.float32)
