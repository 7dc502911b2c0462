"""Collectors of the disk domain."""
