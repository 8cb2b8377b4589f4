"""The Python API: `Paygent`, its methods, and the parts behind them."""
