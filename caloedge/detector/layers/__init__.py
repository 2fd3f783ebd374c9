"""Six-layer sampling calorimeter: geometry, showers of charged and neutral pions, events, files."""
