"""Where a request runs. Takes a `ChatRequest`, gives events; who asked is not its matter."""
