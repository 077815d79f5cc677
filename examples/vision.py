"""A picture in a message, to a model that sees.

python examples/vision.py http://127.0.0.1:8000/v1 eco_... picture.png
"""

import base64
import mimetypes
import sys
from pathlib import Path

from openai import OpenAI
from openai.types import Model


def sees(model: Model) -> bool:
    # The mock engine takes pictures too, and looks at none.
    return "images" in (model.model_extra or {}).get("abilities", ()) and not model.id.startswith("HuggingFaceTB/SmolLM2")


def main(base_url: str, api_key: str, picture: Path) -> None:
    client = OpenAI(base_url=base_url, api_key=api_key)
    model = next(model.id for model in client.models.list().data if sees(model))
    kind = mimetypes.guess_type(picture)[0] or "image/png"
    # Any https address would do as well.
    url = f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"

    answer = client.chat.completions.create(
        model=model,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is in this picture?"},
                    {"type": "image_url", "image_url": {"url": url}},
                ],
            }
        ],
        max_tokens=32,
        temperature=0,
    )
    assert answer.usage is not None
    print(f"model: {model}, {answer.usage.prompt_tokens} tokens of question and picture")
    print(f"answer: {answer.choices[0].message.content!r}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/vision.py BASE_URL API_KEY PICTURE")
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
