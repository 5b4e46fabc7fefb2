"""The HTTP room: thin routes over the acts, who may call them, and problem+json."""
