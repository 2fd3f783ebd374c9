"""From Geant4 showers to a trained generator and its page: read `pipeline` first."""
