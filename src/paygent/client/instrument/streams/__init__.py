"""Taps for answers that are read in pieces: chunks or raw bytes."""
