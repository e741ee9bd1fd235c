"""What lies on disk: atomic writes, checked records, names, locks."""
