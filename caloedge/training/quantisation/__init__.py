"""From a float network to its quantised twin: calibration, equalisation, channel splitting, weight rounding."""
