"""What makes showers: simulations, libraries of frozen showers, networks; one file each."""
