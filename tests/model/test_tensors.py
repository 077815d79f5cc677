"""The loader: names, shapes, leftovers, progress and identity."""

import math

import pytest
import torch
from tests.model.checkpoints import MemoryCheckpoint

from ecocore.errors import InvalidConfiguration, InvalidModelFile
from ecocore.model.parallel import Group
from ecocore.model.tensors import TensorLoader


def loader(*, progress: list[tuple[int, int]] | None = None, dtype: torch.dtype = torch.float32) -> TensorLoader:
    checkpoint = MemoryCheckpoint({"a": torch.ones(3), "b": torch.ones(2, 4), "large": torch.arange(6000.0).view(60, 100)}, {})
    return TensorLoader(
        checkpoint,
        dtype=dtype,
        device=torch.device("cpu"),
        progress=None if progress is None else lambda done, total: progress.append((done, total)),
    )


def identity(tensors: TensorLoader) -> str:
    tensors.tensor("a", 3)
    tensors.tensor("b", 2, 4)
    tensors.tensor("large", 60, 100)
    return tensors.finish()


def test_a_missing_tensor_is_named_with_the_shape_it_should_have() -> None:
    with pytest.raises(InvalidModelFile, match="lacks the tensor c of shape 2 x 2"):
        loader().tensor("c", 2, 2)


def test_a_wrong_shape_is_told_with_the_right_one() -> None:
    with pytest.raises(InvalidModelFile, match="the tensor b has shape 2 x 4; this model needs 4 x 2"):
        loader().tensor("b", 4, 2)


def test_a_tensor_that_nobody_knows_is_refused() -> None:
    tensors = loader()
    tensors.tensor("a", 3)
    tensors.ignore("arge")
    with pytest.raises(InvalidModelFile, match=r"does not know: 'b'$"):
        tensors.finish()


def test_a_name_out_of_a_file_is_quoted_and_short() -> None:
    names = ["\x1b[2J" + "a" * 10**6, "b" * 10**6, "c", "d"]
    checkpoint = MemoryCheckpoint(dict.fromkeys(names, torch.ones(())), {})
    with pytest.raises(InvalidModelFile, match="and 1 more") as raised:
        TensorLoader(checkpoint, dtype=torch.float32, device=torch.device("cpu")).finish()
    assert len(str(raised.value)) < 400
    assert str(raised.value).isprintable()


def test_a_shape_out_of_a_file_is_short() -> None:
    checkpoint = MemoryCheckpoint({"a": torch.ones((1,) * 60)}, {})
    with pytest.raises(InvalidModelFile, match=r"has shape (1 x ){8}52 more; this"):
        TensorLoader(checkpoint, dtype=torch.float32, device=torch.device("cpu")).tensor("a", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_refused_by_its_tensor(bad: float, dtype: torch.dtype) -> None:
    for place in (0, 4999, 9999):
        weights = torch.linspace(-1, 1, 10_000)
        weights[place] = bad
        tensors = TensorLoader(MemoryCheckpoint({"w": weights.view(100, 100)}, {}), dtype=dtype, device=torch.device("cpu"))
        with pytest.raises(InvalidModelFile, match="the tensor w holds a weight that is infinite or not a number"):
            tensors.tensor("w", 100, 100)


def test_a_number_that_the_dtype_cannot_hold_is_refused() -> None:
    checkpoint = MemoryCheckpoint({"w": torch.tensor([1e300], dtype=torch.float64), "empty": torch.ones(0, 4)}, {})
    tensors = TensorLoader(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    assert tensors.tensor("empty", 0, 4).shape == (0, 4)
    with pytest.raises(InvalidModelFile, match="the tensor w holds"):
        tensors.tensor("w", 1)


def test_tensors_come_in_the_loaders_dtype() -> None:
    tensors = loader(dtype=torch.bfloat16)
    assert tensors.tensor("a", 3).dtype == torch.bfloat16
    assert tensors.tensor("b", 2, 4, dtype=torch.float32).dtype == torch.float32


def test_progress_ends_at_the_whole() -> None:
    heard: list[tuple[int, int]] = []
    identity(loader(progress=heard))
    assert heard == [(12, 24044), (44, 24044), (24044, 24044)]


def test_ignored_tensors_count_as_done() -> None:
    heard: list[tuple[int, int]] = []
    loader(progress=heard).ignore("a", "b")
    assert heard[-1] == (44, 24044)


def test_the_identity_follows_the_weights_and_the_dtype() -> None:
    assert identity(loader()) == identity(loader())
    assert identity(loader(dtype=torch.bfloat16)) != identity(loader())
    checkpoint = MemoryCheckpoint({"a": torch.zeros(3), "b": torch.ones(2, 4), "large": torch.arange(6000.0).view(60, 100)}, {})
    assert identity(TensorLoader(checkpoint, dtype=torch.float32, device=torch.device("cpu"))) != identity(loader())


def test_matrices_of_one_input_become_one_layer() -> None:
    tensors = loader()
    layer = tensors.linear(torch.ones(2, 16), torch.full((3, 16), 2.0))
    assert layer(torch.ones(4, 16))[0].tolist() == [16, 16, 32, 32, 32]
    assert tensors.linears == [layer]


# --- parts of ranks ----------------------------------------------------------------------------------------


def of_rank(rank: int, size: int) -> TensorLoader:
    checkpoint = MemoryCheckpoint(
        {"matrix": torch.arange(84.0).view(12, 7), "bias": torch.arange(12.0), "tower": torch.ones(1)}, {}
    )
    return TensorLoader(checkpoint, dtype=torch.float32, device=torch.device("cpu"), group=Group(rank, size))


def test_columns_and_biases_of_ranks_are_the_whole_cut_between_heads() -> None:
    whole = torch.arange(84.0).view(12, 7)
    assert torch.equal(torch.cat([of_rank(rank, 3).column("matrix", 12, 7, units=6) for rank in range(3)]), whole)
    assert torch.equal(of_rank(1, 3).column("bias", 12, units=6), torch.arange(4.0, 8.0))
    # Two keys for four ranks: each is on two of them.
    kept = [of_rank(rank, 4).column("matrix", 12, 7, units=2) for rank in range(4)]
    assert all(torch.equal(mine, whole[at : at + 6]) for mine, at in zip(kept, (0, 0, 6, 6), strict=True))


def test_rows_of_ranks_add_up_to_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "summed", lambda _, rows: rows)
    inputs = torch.randn((4, 7), generator=torch.Generator().manual_seed(1))
    parts = [of_rank(rank, 2).row("matrix", 12, 7)(inputs[:, part]) for rank, part in enumerate((slice(0, 3), slice(3, 7)))]
    torch.testing.assert_close(parts[0] + parts[1], inputs @ torch.arange(84.0).view(12, 7).T)


def test_tokens_of_ranks_are_as_many_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(84.0).view(12, 7)
    embeddings = [of_rank(rank, 5).embedding("matrix", 12, 7) for rank in range(5)]
    assert torch.equal(torch.cat([embedding.weight for embedding in embeddings])[:12], whole)
    assert {len(embedding.weight) for embedding in embeddings} == {3}
    monkeypatch.setattr(Group, "summed", lambda _, rows: rows)
    token_ids = torch.tensor([0, 11, 5, 2])
    assert torch.equal(torch.stack([embedding(token_ids) for embedding in embeddings]).sum(0), whole[token_ids])


def test_more_ranks_than_inputs_are_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="8 processes cannot share matrix of 7 inputs"):
        of_rank(0, 8).row("matrix", 12, 7)


def test_the_first_rank_alone_asks_for_what_is_left_over() -> None:
    for rank in range(2):
        tensors = of_rank(rank, 2)
        tensors.column("matrix", 12, 7)
        tensors.ignore("bias")
        if rank == 0:
            with pytest.raises(InvalidModelFile, match=r"does not know: 'tower'$"):
                tensors.finish()
        else:
            tensors.finish()
