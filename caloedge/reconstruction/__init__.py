"""Whole events to photons, and those photons judged as physics: which are found, how well measured, and the π⁰ made of them."""
