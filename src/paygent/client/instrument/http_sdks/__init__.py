"""The one wrapper around the `request` method of a generated SDK."""
