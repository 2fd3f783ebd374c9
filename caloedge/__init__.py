"""Calorimeter deep learning from particle showers to trigger firmware, with proof of what was lost on the way."""
