"""The only place with a training loop."""
