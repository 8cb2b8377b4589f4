"""Put a patch in, take it out again, and wait for modules that are imported later."""
