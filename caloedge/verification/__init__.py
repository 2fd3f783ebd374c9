"""The exactness chain: every executor gives the same codes."""
