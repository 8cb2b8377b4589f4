"""The functional core: values in, values out.

Nothing in this package does I/O, reads a clock, draws a random number, starts a thread, logs or
keeps module state; import-linter forbids the imports that would let it. What the product decides
(prices, estimates, gates, periods) is decided here, and everything here can be tested without a
fixture.
"""
