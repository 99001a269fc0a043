"""Choosing a policy on dev: replay, curves, calibration to a budget, risk control, drift."""
