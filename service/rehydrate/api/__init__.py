"""The HTTP API: thin routes over the use cases, authentication, and problem+json errors."""
