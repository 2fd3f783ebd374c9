"""Showers as generative networks see them, and back; samplers; trained generators in their folders. No torch."""
