"""One section of `ansai.yaml` per domain, read by its collectors and its functions; and the common sections."""
