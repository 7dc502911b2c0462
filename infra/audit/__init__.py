"""The audit trail: its form, its keys, who writes it, and how it is verified, exported and archived."""
