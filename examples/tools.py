"""A small agent: the model asks for what it lacks, this program looks it up, the model answers.

python examples/tools.py http://127.0.0.1:8000/v1 eco_... [MODEL]
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from openai import OpenAI

WEATHER = {"Bergen": "9 degrees, rain", "Lisbon": "24 degrees, sunny", "Oslo": "4 degrees, snow"}
MAX_ROUNDS = 4


def get_weather(city: str) -> str:
    return WEATHER[city]


FUNCTIONS: dict[str, Callable[..., str]] = {"get_weather": get_weather}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city, now",
            # What the schema says is kept while the call is written: no other city can come.
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": sorted(WEATHER)}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


def main(base_url: str, api_key: str, model: str | None = None) -> None:
    client = OpenAI(base_url=base_url, api_key=api_key)
    model = model or client.models.list().data[0].id
    messages: list[Any] = [{"role": "user", "content": "What should I wear in Oslo today?"}]
    print(f"model: {model}")

    for number in range(MAX_ROUNDS):
        # It has to look first, may look again, and has to come to an end.
        choice: Any = "required" if number == 0 else "auto" if number < MAX_ROUNDS - 1 else "none"
        answer = client.chat.completions.create(
            model=model,
            messages=messages,
            tools=TOOLS,
            tool_choice=choice,
            parallel_tool_calls=False,
            max_tokens=64,
            temperature=0,
        )
        message = answer.choices[0].message
        if not message.tool_calls:
            print(f"answer: {message.content!r}")
            return
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            if call.type != "function":
                continue
            result = run(call.function.name, call.function.arguments)
            print(f"called: {call.function.name}({call.function.arguments}) -> {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def run(name: str, arguments: str) -> str:
    """What a call gives. Under "auto" a model may be cut off in the middle of one, and reads here what was wrong."""
    try:
        return FUNCTIONS[name](**json.loads(arguments))
    except (KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python examples/tools.py BASE_URL API_KEY [MODEL]")
    main(*sys.argv[1:])
