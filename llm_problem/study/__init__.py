"""Runs and studies: folders, pictures, tables."""
