"""One file per task: samples, targets, splits, metrics and the classical baseline; the file name is the public name."""
