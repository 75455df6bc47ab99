"""The random states of a process, as JSON. Draws and sampling are seeded by what they are for and do not need them;
libraries may."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """The states of this process: Python's, numpy's, torch's and, where there is a GPU, CUDA's."""
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)
    states: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": {
            "key": legacy["state"]["key"].tolist(),
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": _text(torch.get_rng_state()),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = _text(torch.cuda.get_rng_state())
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Put this process where ``random_states`` found another."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = states["numpy"]
    np.random.set_state(
        ("MT19937", np.array(numpy["key"], np.uint32), numpy["pos"], numpy["has_gauss"], numpy["gauss"])
    )
    torch.set_rng_state(_tensor(states["torch"]))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(states["cuda"]))


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _tensor(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.uint8).copy())
