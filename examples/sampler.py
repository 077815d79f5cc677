"""The sampler in a plain torch loop: any model that gives logits can use it.

Run: python examples/sampler.py
"""

import torch

from ecocore import Sampler, SamplingParams

VOCAB_SIZE = 64
STEPS = 12


def main() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(VOCAB_SIZE, 32), torch.nn.Linear(32, VOCAB_SIZE))
    sampler = Sampler(VOCAB_SIZE)

    # Three sequences, each with its own settings and seed. The first two differ in their seed alone.
    settings = [
        {"temperature": 1.2, "top_p": 0.9},
        {"temperature": 1.2, "top_p": 0.9},
        {"temperature": 0.0, "frequency_penalty": 0.5},
    ]
    seeds = [7, 8, 7]
    sequences = [[1], [1], [1]]

    for step in range(STEPS):
        with torch.inference_mode():
            logits = 4 * model(torch.tensor([tokens[-1] for tokens in sequences]))
        params = [SamplingParams(**fields, history=tokens[1:]) for fields, tokens in zip(settings, sequences, strict=True)]
        ids = sampler.sample(logits, params, seeds=seeds, positions=[step] * len(sequences))
        for tokens, token in zip(sequences, ids.tolist(), strict=True):
            tokens.append(token)

    for tokens in sequences:
        print(tokens)


if __name__ == "__main__":
    main()
