"""Who heals: the engine all functions share, and one folder per domain."""
