"""The functional core: values in, values out.

Nothing in this package does I/O, reads a clock, draws a random number, starts a thread, logs or
keeps module state; import-linter forbids the imports that would allow it. All decisions (prices,
estimates, gates, periods) are made here, and everything here can be tested without a fixture.
"""
