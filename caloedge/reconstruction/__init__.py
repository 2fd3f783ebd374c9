"""Classical algorithms and the inputs of networks, which need no torch."""
