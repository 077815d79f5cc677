"""One of the processes that compute a model together, but for the first: the hallway of a rank.

Takes what to load, reads this rank's part, and computes its share of each step that rank 0 tells. Knows no request.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

EXIT_FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class Share:
    """What a rank has to load, all of it plain: it travels as JSON. `threads`: of a processor that ranks share."""

    model: str
    mmproj: str | None
    rank: int
    size: int
    device: str
    precision: Literal["exact", "fast"] | None
    kv_cache_bytes: int
    block_size: int
    step_tokens: int
    threads: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Undoes `told`."""
        return cls(**told)

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def work(share: Share, meeting: Path) -> int:
    """Computes until the process that started this one ends it; gives an exit code if something fails before."""
    # What is worth a warning, rank 0 says too.
    logging.basicConfig(level=logging.ERROR, format=f"%(asctime)s %(levelname)s [rank {share.rank}] %(name)s: %(message)s")

    _leave_no_core()

    from ecocore.model.workers import Leader

    leader = Leader.adopt()

    import torch

    from ecocore.families import family_of
    from ecocore.model.parallel import Group
    from ecocore.model.runner import ModelRunner
    from ecocore.weights.checkpoint import open_checkpoint

    try:
        torch.set_num_threads(share.threads)
        checkpoint = open_checkpoint(share.model, None if share.mmproj is None else Path(share.mmproj))
        family = family_of(checkpoint)
        checkpoint = family.told(checkpoint)
        runner = ModelRunner.load(
            family.model_class(),
            family.configure(checkpoint),
            checkpoint,
            precision=share.precision,
            device=share.device,
            kv_cache_bytes=share.kv_cache_bytes,
            block_size=share.block_size,
            step_tokens=share.step_tokens,
            group=Group(share.rank, share.size),
        )
        leader.tell({"identity": runner.fingerprint})
        runner.follow(leader.steps(), meeting)
    except Exception as error:  # noqa: BLE001  # rank 0 says it, in the way that it says everything
        leader.tell({"failed": f"{type(error).__name__}: {error}"})
    return EXIT_FAILED


def _leave_no_core() -> None:
    """A core dump would hold prompts."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
