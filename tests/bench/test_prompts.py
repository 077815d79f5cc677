"""Prompts: the same name gives the same text, other names others, from the first words on."""

from ecocore.bench.prompts import WORDS, Prompts


def test_a_name_and_a_seed_give_the_text() -> None:
    assert Prompts(1, 20).named("a/0") == Prompts(1, 20).named("a/0")
    assert Prompts(1, 20).named("a/0") != Prompts(2, 20).named("a/0")
    assert len(Prompts(1, 20).named("a/0").split()) == 20
    assert len(set(WORDS)) == len(WORDS)


def test_prompts_share_no_beginning_that_a_cache_could_keep() -> None:
    beginnings = [" ".join(Prompts(1, 64).named(f"a/{number}").split()[:4]) for number in range(2000)]
    assert len(set(beginnings)) > 1990


def test_a_text_of_ones_own_stands_behind_something_new() -> None:
    prompts = Prompts(1, 20, "Tell me a story.")
    texts = [prompts.named(f"a/{number}") for number in range(100)]
    assert all(text.endswith("] Tell me a story.") for text in texts)
    assert len({text.partition("]")[0] for text in texts}) == 100
