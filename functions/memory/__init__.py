"""The memory domain: services whose memory grows without end, and hosts that run out of it."""
