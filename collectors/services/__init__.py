"""Services of this machine."""
