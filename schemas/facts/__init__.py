"""What probes read: plain values about files, package caches, journals and containers."""
