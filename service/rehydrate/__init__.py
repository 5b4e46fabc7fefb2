"""History hydration and replay for AI conversations that stream over Ably."""
