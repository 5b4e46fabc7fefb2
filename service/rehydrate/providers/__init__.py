"""Read the streams of model vendors as typed events, as text, or directly into a response.

No vendor's package is imported here.
"""
