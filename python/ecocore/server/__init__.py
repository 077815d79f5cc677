"""The OpenAI-compatible HTTP server. Takes bytes, gives bytes; where a request runs is behind `Region`."""
