"""The demo: all services on embedded defaults, a streaming agent, and the exactness check."""
