"""One file per backend; the file name is the public name."""
