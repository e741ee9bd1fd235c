"""What runs an attack."""
