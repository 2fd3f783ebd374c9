"""Crystal calorimeter: Geant4 and parametrised showers, the shower library, events and digitisation."""
