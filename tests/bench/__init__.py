"""Benchmarks: printed ratios and percentiles, never asserted against a clock."""
