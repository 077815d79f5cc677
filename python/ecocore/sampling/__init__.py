"""Choice: from logits to token ids. Takes logits and parameters, gives ids; knows no model and no text."""
