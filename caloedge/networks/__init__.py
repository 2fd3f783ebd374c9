"""One file per architecture, written once for float and quantised arithmetic; the file name is the public name."""
