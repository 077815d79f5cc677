"""The experiment of docs/determinism.md: the row counts for which a matrix product treats every row alike.

    python -m benches.row_invariance [--most 600]

For each shape of the embedded model's layers it compares, bit by bit, every row of products of 1 to `--most` rows with
the same rows of one large product, for torch's own `linear` and for ecocore's `Linear`, and prints which row counts differ.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from ecocore.model.layers import ROW_MULTIPLE, Linear

SHAPES = ((576, 960), (576, 576), (576, 1536), (1536, 576))


def differing(compute: Callable[[Tensor], Tensor], rows: Tensor, most: int) -> list[int]:
    """Row counts whose product differs from the same rows of the whole."""
    whole = compute(rows)
    return [count for count in range(1, most + 1) if not torch.equal(compute(rows[:count].clone()), whole[:count])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=600)
    most = parser.parse_args().most
    generator = torch.Generator().manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, row counts 1 to {most}")
    for dtype in (torch.float32, torch.bfloat16):
        for width, out in SHAPES:
            weight = torch.randn((out, width), generator=generator).to(dtype)
            rows = torch.randn((-(-most // 4) * 4, width), generator=generator).to(dtype)
            ours = Linear(weight)
            for name, compute in (("torch", lambda some, weight=weight: linear(some, weight)), ("ecocore", ours)):
                counts = differing(compute, rows, most)
                padded = [count for count in counts if count % ROW_MULTIPLE == 0]
                print(
                    f"{dtype} {width:>5} -> {out:<5} {name:8} differ: {len(counts):3}, multiples of {ROW_MULTIPLE}: {len(padded)}"
                )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
