"""What loading a folder takes at its peak, in a process of its own: the weights and less than one shard."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benches.load_time import Shape, nbytes, write

ROOT = Path(__file__).parents[2]
# A layer's matrices are put together beside their parts, so the widest must be well below a shard, as in real models.
SHAPE = Shape(vocab=4000, hidden=768, mlp=2048, layers=8, heads=12, kv_heads=12, head_dim=64, shard_bytes=40 * 10**6)
# The model's class alone: a runner would add its cache and rehearse its steps.
LOAD = """
import json, sys
from pathlib import Path
import torch
from benches.load_time import Memory
from ecocore.model.layers import Linear
from ecocore.model.llama import Llama
from ecocore.model.llama_config import LlamaConfig
from ecocore.model.tensors import TensorLoader
from ecocore.weights.checkpoint import open_checkpoint
checkpoint, dtype = open_checkpoint(Path(sys.argv[1])), getattr(torch, sys.argv[2])
# Whatever the first of everything brings in is no part of it.
Linear(torch.ones((16, 16), dtype=dtype))
memory = Memory()
before = memory.now("RssAnon")
tensors = TensorLoader(checkpoint, dtype=dtype, device=torch.device("cpu"))
model = Llama(LlamaConfig.of(checkpoint), tensors, num_positions=64)
tensors.finish()
memory.end()
print(json.dumps([memory.now("RssAnon") - before, memory.peak - before]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write(path, SHAPE)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loading_takes_the_weights_and_less_than_one_shard(folder: Path, dtype: torch.dtype) -> None:
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert len(list(folder.glob("*.safetensors"))) == len(SHAPE.shards()) > 3
    weights, shard = files * dtype.itemsize // 2, max(sum(nbytes(shape) for _, shape in tensors) for tensors in SHAPE.shards())
    command = [sys.executable, "-c", LOAD, str(folder), str(dtype).removeprefix("torch.")]
    ran = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    loaded, peak = json.loads(ran.stdout)
    assert 0.9 * weights < loaded < weights + shard / 2
    assert peak < weights + shard
