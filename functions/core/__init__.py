"""What every function is made of, and the engine that runs it."""
