"""The services domain: units of systemd that failed, flap or will not start."""
