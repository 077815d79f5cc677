"""The official OpenAI client against `ecocore serve`: python examples/openai_client.py http://127.0.0.1:8000/v1 eco_..."""

import sys

from openai import OpenAI


def main(base_url: str, api_key: str) -> None:
    client = OpenAI(base_url=base_url, api_key=api_key)
    model = client.models.list().data[0].id
    print(f"model: {model}")

    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=16, temperature=0
    )
    assert answer.usage is not None
    print(f"answer: {answer.choices[0].message.content!r} ({answer.usage.completion_tokens} tokens)")

    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=16, temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    print(f"stream: {text!r}, {'the same' if text == answer.choices[0].message.content else 'not the same'}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} BASE_URL API_KEY")
    main(*sys.argv[1:])
