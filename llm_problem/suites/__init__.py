"""Named problems for comparing algorithms."""
