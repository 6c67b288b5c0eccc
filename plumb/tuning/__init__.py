"""Measurement, calibration, trials, Optuna, decision."""
