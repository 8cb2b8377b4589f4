"""The Python API: `Paygent`, its verbs, and what each of them needs."""
