"""What all collectors share: their shape, the loop that runs one, what is remembered, and when it is told."""
