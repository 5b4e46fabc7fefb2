"""An OpenAI-compatible endpoint that streams scripted answers at a model's pace."""
