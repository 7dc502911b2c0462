"""Faults made for real on small things, and healed by the real functions: for demonstrations and for trust."""
