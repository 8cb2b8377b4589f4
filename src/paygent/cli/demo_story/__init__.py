"""The demo: three users of a $49 plan, a provider on this machine, and what each of them costs."""
