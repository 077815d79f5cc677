"""Work on a CUDA device: each kernel has one typed function that checks, allocates and launches."""
