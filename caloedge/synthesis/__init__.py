"""Cost of a design: netlists by open synthesis, clocks by open place and route, and the vendors' own reports."""
