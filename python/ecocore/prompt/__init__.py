"""From a conversation to token ids: the model's chat template, then the tokenizer. No torch here."""
