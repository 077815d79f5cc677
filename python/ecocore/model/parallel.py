"""One model computed by several processes: which part of each matrix a rank has, and how parts become whole again.

A matrix that is cut by its outputs (a column) needs nothing from others; one that is cut by its inputs (a row) gives each rank
a part of every sum. Models say which of the two a matrix is, through `TensorLoader`; this file knows none of them.

Parts are gathered, and added in the order of ranks. An all-reduce would send less where there are more than two ranks, but the
order in which it adds follows from the place of a number in the step, and with it from the rest of the batch.
"""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from ecocore.errors import InvalidConfiguration
from ecocore.model.config import KvLayer, ModelConfig
from ecocore.model.layers import Linear

# Ranks are as fast as each other: who is so far behind hangs.
PATIENCE: Final = timedelta(seconds=60)
_LOOPBACK: Final = "127.0.0.1"

Layer = Callable[[Tensor], Tensor]


class Group:
    """The ranks that compute one model together, as one of them sees it. A group of one has nothing to exchange."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """`connect` comes before the first exchange."""
        self.rank: Final = rank
        self.size: Final = size
        self._processes: Any = None
        # Between processors, the end of a rank is the end of its connections.
        self._on_device = False

    # --- who has what -----------------------------------------------------------------------------------

    def part(self, units: int) -> range:
        """Which of `units`, such as heads or features, this rank has. Of fewer units than ranks, several ranks have the same."""
        first = self.rank * units // self.size
        return range(first, max(first + 1, (self.rank + 1) * units // self.size))

    def kv_layers(self, config: ModelConfig) -> tuple[KvLayer, ...]:
        """What this rank keeps of keys and values. Raises InvalidConfiguration where heads cannot be shared out evenly."""
        if not _divides(config, self.size):
            fitting = [str(size) for size in range(2, config.num_heads + 1) if _divides(config, size)]
            kv_heads = " or ".join(map(str, sorted({layer.num_kv_heads for layer in config.kv_layers})))
            raise InvalidConfiguration(
                f"tensor_parallel: {self.size} processes cannot evenly share {config.num_heads} attention heads"
                f" over {kv_heads} key-value heads; {', '.join(fitting) or 'none but 1'} can"
            )
        return tuple(
            KvLayer(len(self.part(layer.num_kv_heads)), layer.head_dim, window=layer.window) for layer in config.kv_layers
        )

    def device(self, first: torch.device) -> torch.device:
        """That of this rank, where rank 0 has `first`: devices are taken one after the other. Raises InvalidConfiguration."""
        if first.type != "cuda" or self.size == 1:
            return first
        begin, count = first.index or 0, torch.cuda.device_count()
        if begin + self.size > count:
            raise InvalidConfiguration(
                f"tensor_parallel: {self.size} processes need a CUDA device each, from cuda:{begin} on; this machine has {count}"
            )
        return torch.device("cuda", begin + self.rank)

    # --- exchange ---------------------------------------------------------------------------------------

    def connect(self, meeting: Path, device: torch.device) -> None:
        """Meets the others, who name the same file, and exchanges a first number. Raises RuntimeError if one stays away."""
        # Of torch's process groups the one of `init_process_group` belongs to a whole process, which may have several models.
        from torch.distributed import FileStore  # type: ignore[attr-defined]  # torch's stubs leave it out

        store = FileStore(str(meeting), self.size)
        store.set_timeout(PATIENCE)
        self._on_device = device.type == "cuda"
        self._processes = (_nccl if self._on_device else _gloo)(store, self.rank, self.size)
        self.gathered(torch.full((1, 1), float(self.rank), device=device))

    def abort(self) -> None:
        """Ends exchanges that wait for a rank which is gone; any thread."""
        if self._on_device and self._processes is not None:
            self._processes.abort()

    def gathered(self, rows: Tensor) -> Tensor:
        """What every rank has, in the order of ranks: `rows` (rows, width) to (size, rows, width)."""
        every = rows.new_empty((self.size, *rows.shape))
        # As bytes, so that every backend takes every dtype.
        self._processes._allgather_base(every.view(torch.uint8).flatten(0, 1), rows.contiguous().view(torch.uint8)).wait()  # noqa: SLF001
        return every

    def summed(self, rows: Tensor) -> Tensor:
        """The sum over all ranks, added in their order in float32: (rows, width) to the same, in memory of its own."""
        every = self.gathered(rows)
        total = every[0].float()
        for rank in range(1, self.size):
            total.add_(every[rank])
        return total.to(rows.dtype)

    def joined(self, rows: Tensor) -> Tensor:
        """Side by side: (rows, width) to (rows, size * width)."""
        return self.gathered(rows).transpose(0, 1).flatten(1)


class RowParallel:
    """A matrix of which each rank has some of the inputs."""

    def __init__(self, linear: Linear, group: Group) -> None:
        """`linear`: this rank's part."""
        self._linear = linear
        self._group = group

    def __call__(self, rows: Tensor) -> Tensor:
        """The inputs of this rank (rows, part) to the whole product (rows, out_features)."""
        return self._group.summed(self._linear(rows))


class Embedding:
    """Rows of tokens, of which each rank has those of some tokens."""

    def __init__(self, weight: Tensor, group: Group) -> None:
        """`weight`: (tokens of this rank, hidden_size)."""
        self.weight: Final = weight
        self._group = group

    def __call__(self, token_ids: Tensor) -> Tensor:
        """(rows,) to (rows, hidden_size), in memory of its own."""
        if self._group.size == 1:
            return self.weight[token_ids]
        count = len(self.weight)
        places = token_ids - self._group.rank * count
        rows = self.weight[places.clamp(0, count - 1)]
        # One rank has the token, and the others add nothing.
        return self._group.summed(rows.masked_fill_(((places < 0) | (places >= count))[:, None], 0))


class Head:
    """The matrix that makes logits, of which each rank has some tokens; all of them come together."""

    def __init__(self, linear: Linear, vocab_size: int, group: Group) -> None:
        """`linear`: this rank's part, as wide as every other's."""
        self._linear = linear
        self._vocab_size = vocab_size
        self._group = group

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, hidden_size) to (rows, vocab_size)."""
        return self._group.joined(self._linear(rows))[:, : self._vocab_size].contiguous()


class ThreadShare:
    """Leaves each of some ranks as many threads of the processor, this one among them, until it is closed.

    Of several models in one process the one that shares with most ranks counts.
    """

    _lock: ClassVar = threading.Lock()
    _open: ClassVar[list["ThreadShare"]] = []
    _all: ClassVar = 0

    def __init__(self, size: int) -> None:
        """`size`: how many ranks. `threads` is what each of them has."""
        with self._lock:
            if not self._open:
                ThreadShare._all = torch.get_num_threads()
            self.threads: Final = max(1, self._all // size)
            self._open.append(self)
            self._settle()

    def close(self) -> None:
        """Gives this rank back what it had. May be called twice."""
        with self._lock:
            if self in self._open:
                self._open.remove(self)
                self._settle()

    def _settle(self) -> None:
        torch.set_num_threads(min((share.threads for share in self._open), default=self._all))


def tokens_of(group: Group, vocab_size: int) -> range:
    """Which tokens a rank has: equally many each, but for the last, whose end may lie beyond the vocabulary."""
    each = -(-vocab_size // group.size)
    return range(group.rank * each, (group.rank + 1) * each)


def filled_up(rows: Tensor, count: int) -> Tensor:
    """`rows` with rows of zeros behind them, `count` in all."""
    return pad(rows, (0, 0, 0, count - len(rows))) if len(rows) < count else rows


def _divides(config: ModelConfig, size: int) -> bool:
    """Whether each rank gets as many heads, with all the keys that they look at."""
    kv_heads = {layer.num_kv_heads for layer in config.kv_layers}
    return config.num_heads % size == 0 and all(count % size == 0 or size % count == 0 for count in kv_heads)


def _gloo(store: Any, rank: int, size: int) -> Any:
    from torch.distributed import ProcessGroupGloo

    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # noqa: SLF001
    # Nothing outside of this machine has a part in this, or a way to it.
    options._devices = [ProcessGroupGloo.create_device(hostname=_LOOPBACK)]  # noqa: SLF001
    options._timeout = PATIENCE  # noqa: SLF001
    return ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int) -> Any:
    from torch.distributed import ProcessGroupNCCL

    options = ProcessGroupNCCL.Options()
    options._timeout = PATIENCE  # noqa: SLF001
    return ProcessGroupNCCL(store, rank, size, options)
