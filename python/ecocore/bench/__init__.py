"""Measures servers over HTTP: any that speaks the OpenAI chat API with streaming, ecocore's own among them."""
