"""Repair or judge one model from Python."""
