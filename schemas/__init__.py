"""What travels: the models of every message, of every fact a probe reads, and of every settings section."""
