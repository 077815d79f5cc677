"""Model files: a path goes in, a checked `Checkpoint` comes out. Knows no architecture and runs no code from a file."""
