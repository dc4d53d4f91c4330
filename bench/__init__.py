"""Measurements: synthesis, utilisation, speed."""
