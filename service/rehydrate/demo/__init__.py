"""The demo: everything on embedded defaults, an agent that streams, and a check that joins it."""
