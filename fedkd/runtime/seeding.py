"""Random streams by name: ``derive(seed, "client", 3, "round", 7, "batches")``.

Every consumer of randomness names its own stream, so that adding one shifts no other, and two seeds
or two clients never share a stream, as they do under ``seed + client_id``. No stream touches a
global generator.
"""

import hashlib
import json

import numpy as np
import torch


def derive(seed: int, *path: str | int) -> int:
    """Return the 128-bit seed of the stream that ``path`` names under ``seed``.

    It is the BLAKE2b hash of the path, written unambiguously: ``("a", 1)`` and ``("a1",)`` differ.

    >>> derive(0, "client", 1) == derive(0, "client", 1)
    True
    >>> derive(0, "client", 1) == derive(1, "client", 0)
    False
    """
    name = json.dumps([seed, *path], separators=(",", ":")).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big")


def numpy_stream(seed: int, *path: str | int) -> np.random.Generator:
    """Return a NumPy generator for a named stream, seeded with all 128 bits."""
    return np.random.default_rng(derive(seed, *path))


def torch_seed(seed: int, *path: str | int) -> int:
    """Return a named stream's seed for torch's CPU generator, which uses 32 bits of it.

    Good for weight initialization. Where very many streams must all differ (batches, noise), use
    ``numpy_stream``: among 100,000 streams of 32 bits one pair is expected to coincide.
    """
    return derive(seed, *path) % 2**63


def torch_stream(seed: int, *path: str | int) -> torch.Generator:
    """Return a torch CPU generator for a named stream; see ``torch_seed`` for its limit."""
    return torch.Generator().manual_seed(torch_seed(seed, *path))
