"""What a Qwen2's files say about its shape: that of a Llama whose queries, keys and values have a bias.

Takes `config.json`, gives a config. A feature that is switched on and not implemented is refused by name.
"""

from typing import TYPE_CHECKING

from ecocore.errors import InvalidModelFile
from ecocore.model.llama_config import LlamaConfig

if TYPE_CHECKING:
    from ecocore.weights.checkpoint import Checkpoint


class Qwen2Config:
    """How Qwen2 and Qwen2.5 are read."""

    @staticmethod
    def of(checkpoint: "Checkpoint") -> LlamaConfig:
        """Reads the config of a checkpoint. Raises InvalidModelFile."""
        config, where = checkpoint.config, checkpoint.settings_name
        if config.get("use_sliding_window"):
            raise InvalidModelFile(f"{where} switches on use_sliding_window, which this version does not implement here")
        return LlamaConfig.from_hf(config, where, qkv_bias=True)
