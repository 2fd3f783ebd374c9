"""`python -m caloedge` is the same as `caloedge`."""

from caloedge.cli import main

main()
