"""Collectors of the memory domain."""
