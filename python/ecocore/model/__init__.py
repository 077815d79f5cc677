"""The models: tensors in, logits out. Knows batches and blocks, no text and no requests."""
