"""Where functions and collectors run: what binds them to the bus, the machine and the configuration."""
