"""The prompts of smollm2_greedy.json: conversations to be rendered, and plain text. In order, by name."""

from typing import Any, Final

TOKENS: Final = 64
# Below this gap in log-probability two implementations may well disagree on the winner.
TIE_MARGIN: Final = 1e-4


def _ask(text: str, system: str | None = None) -> list[dict[str, Any]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": text}]


_STORY = (
    "In the harbour town of Ness, the lighthouse keeper wrote down every ship that passed. On day {day} he saw {ships} ships, "
    "{sails} of them with brown sails, and the wind came from the {wind}. "
)
_WINDS = ("north", "east", "south", "west")

PROMPTS: Final[dict[str, str | list[dict[str, Any]]]] = {
    "count": _ask("Count from 1 to 10."),
    "capital": _ask("What is the capital of France? Answer in one sentence."),
    "poem": _ask("Write a short poem about the sea at night."),
    "arithmetic": _ask("If I have 3 apples and buy 4 more, then eat 2, how many are left? Explain step by step."),
    "system": _ask("Introduce yourself.", system="You are a gruff ship's captain who answers briefly."),
    "list": _ask("List five tools a carpenter uses and say what each is for."),
    "translate": _ask("Translate to French: The cat sleeps on the chair."),
    "german": _ask("Was ist der Unterschied zwischen einem See und einem Fluss?"),
    "spanish": _ask("Escribe una frase sobre el otoño en Madrid."),
    "chinese": _ask("请用一句话介绍一下长城。"),
    "emoji": _ask("What do these mean? 🌊🔥🌱 Explain each."),
    "json": _ask('Give me a JSON object with the keys "name" and "age" for a person called Ada who is 36.'),
    "turns": [
        {"role": "user", "content": "My name is Robin and I like chess."},
        {"role": "assistant", "content": "Nice to meet you, Robin! Chess is a wonderful game."},
        {"role": "user", "content": "What is my name, and which game do I like?"},
    ],
    "python": "def fibonacci(n: int) -> int:\n    '''Return the n-th Fibonacci number.'''\n",
    "rust": "/// Sums the squares of the even numbers.\nfn sum_of_even_squares(numbers: &[i64]) -> i64 {\n",
    "html": "<!DOCTYPE html>\n<html>\n<head>\n  <title>A page about bees</title>\n</head>\n<body>\n",
    "prose": "It was a bright cold morning, and the train was late again. The old man on the platform",
    "one word": "Photosynthesis",
    "long": "".join(
        _STORY.format(day=day, ships=day * 3 % 11 + 2, sails=day % 3, wind=_WINDS[day * 7 % 4]) for day in range(1, 17)
    )
    + "On the last day, the keeper",
    "long chat": _ask(
        "".join(_STORY.format(day=day, ships=day * 5 % 13 + 1, sails=day % 2, wind=_WINDS[day % 4]) for day in range(1, 13))
        + "Summarise what the keeper saw."
    ),
}
