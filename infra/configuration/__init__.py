"""The configuration: read from its file with line numbers, put together in layers, judged, and written out again."""

from infra.configuration.loading import ConfigurationError, Loaded, find, load, read

__all__ = ["ConfigurationError", "Loaded", "find", "load", "read"]
