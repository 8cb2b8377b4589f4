"""The demo: three users of a $49 plan, a local fake provider, and the cost of each user."""
