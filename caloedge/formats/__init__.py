"""Files of other formats, checked while they are read."""
