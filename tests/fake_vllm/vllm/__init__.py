"""Part of the stand-in for the vLLM package: see entrypoints/openai/api_server.py."""
