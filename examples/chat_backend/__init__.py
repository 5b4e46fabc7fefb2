"""A chat backend to copy: FastAPI, the embedded router, a model with two tools, and a page."""
