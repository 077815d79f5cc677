"""Qwen2.5-VL: a Qwen2 that turns by time, height and width, and sees through a tower.

Only what is its own stands here: how images take the place of tokens, and where on the page a token lies.
"""

from collections.abc import Generator, Sequence
from dataclasses import fields, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ecocore.errors import InternalError
from ecocore.model.attention import AttentionPlan
from ecocore.model.batch import Integers
from ecocore.model.llama import NAMES, Llama
from ecocore.model.qwen2_5_vl_config import Qwen25VlConfig
from ecocore.model.qwen2_5_vl_vision import Tower
from ecocore.model.sight import Sight, View
from ecocore.model.tensors import TensorLoader

# As the hub has them, and as some newer files do.
_TOWER_PREFIXES: Final = ("visual.", "model.visual.")
_NEWER_TEXT: Final = "model.language_model."


class Qwen25Vl:
    """A Qwen2.5-VL with its weights. Keeps no state between steps: keys and values are the caller's."""

    looks_around: Final = False

    def __init__(self, config: Qwen25VlConfig, tensors: TensorLoader, *, num_positions: int) -> None:
        """Takes its tensors from `tensors`; positions 0 to `num_positions` - 1 can be computed. Raises InvalidModelFile."""
        names = NAMES
        if f"{_NEWER_TEXT}norm.weight" in tensors:
            told = {field.name: str(getattr(names, field.name)) for field in fields(names)}
            names = replace(names, **{name: text.replace("model.", _NEWER_TEXT, 1) for name, text in told.items()})
        self._text = Llama(config.text, tensors, num_positions=num_positions, names=names)
        prefix = next((prefix for prefix in _TOWER_PREFIXES if f"{prefix}merger.ln_q.weight" in tensors), _TOWER_PREFIXES[0])
        # One rank looks at images, and tells the others what it saw.
        tower = config.tower if tensors.group.rank == 0 else None
        self._tower = None if tower is None else Tower(tower, tensors, prefix)
        self.row_bytes: Final = config.text.hidden_size * tensors.dtype.itemsize
        axes = [index % 3 for index, count in enumerate(config.sections) for _ in range(count)]
        self._axes = torch.tensor(axes, device=tensors.device)

    def hidden_states(self, token_ids: Tensor, positions: Tensor, attention: AttentionPlan, sight: Sight | None = None) -> Tensor:
        """As `Llama.hidden_states`; with what the step sees of images."""
        if sight is None:
            return self._text.hidden_states(token_ids, positions, attention)
        hidden = self._text.embedded(token_ids)
        if len(sight.rows):
            hidden.index_copy_(0, sight.rows, sight.embeddings)
        if sight.coordinates is None:
            return self._text.run(hidden, self._text.rotary.at(positions), attention)
        return self._text.run(hidden, self._text.rotary.at_coordinates(sight.coordinates, self._axes), attention)

    def logits(self, hidden: Tensor) -> Tensor:
        """As `Llama.logits`."""
        return self._text.logits(hidden)

    def see(self, view: View) -> Generator[None, None, Tensor]:
        """See `SeeingModel`."""
        if self._tower is None:
            raise InternalError("an image was shown to a model without a vision tower")
        return self._tower.see(view.pixels)

    def coordinates(self, views: Sequence[View], length: int) -> Integers:
        """See `SeeingModel`. An image takes as many positions as its longer side, and text goes on from there."""
        told = np.empty((3, length + 1), np.int64)
        at = reached = 0
        for view in views:
            told[:, at : view.start] = np.arange(reached, reached + view.start - at)
            reached += view.start - at
            at = view.start + view.rows * view.columns
            rows, columns = np.indices((view.rows, view.columns)).reshape(2, -1)
            told[:, view.start : at] = reached + np.stack((np.zeros_like(rows), rows, columns))
            reached += max(view.rows, view.columns)
        told[:, at:] = np.arange(reached, reached + length + 1 - at)
        return told
