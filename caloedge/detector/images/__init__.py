"""Tracker and calorimeter images of toy particles and of QCD jets."""
