"""Torch networks of generators; `ARCHITECTURES` of `generative.build` lists them."""
