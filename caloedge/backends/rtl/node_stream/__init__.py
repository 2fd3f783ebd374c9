"""Graph networks node by node: hits in, nodes or clusters out, several nodes per clock cycle."""
