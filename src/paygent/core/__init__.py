"""The functional core: values in, values out.

Nothing in this package does I/O, reads a clock, draws a random number, starts a thread or logs;
import-linter forbids the imports that would allow it. The only module state is a bounded cache. All
decisions (prices, estimates, gates, periods) are made here, and everything here can be tested
without a fixture.
"""
