"""The real probes and tools: the only place that imports clients of what is outside."""
