"""What the engine tells, as values for people who embed it."""
