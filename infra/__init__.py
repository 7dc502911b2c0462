"""Where it runs: the only package that puts collectors, functions, the bus and real clients together."""
