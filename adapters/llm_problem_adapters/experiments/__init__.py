"""Experiments whose tables the documentation shows; each is a command that goes on where it was stopped."""
