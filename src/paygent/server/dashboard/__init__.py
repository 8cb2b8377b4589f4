"""The dashboard: pages of a product, rendered by the server, at the root of the backend.

Every page is a document that works by itself; htmx replaces its body in place where scripts run.
What a page shows is in its address. Figures come from the store's verbs that REST uses.
"""
