"""What this process knows of its users, and the holds of its calls in flight."""
