"""An OpenAI-compatible endpoint without a model: it says what its script says, at a model's pace."""
