"""The routes, a module for each group, and the models of their bodies."""
