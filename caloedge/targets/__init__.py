"""One file per device; the file name is the public name."""
