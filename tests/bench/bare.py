"""The best loop that nats-py alone allows, and FastStream at its best setting: what the bus is measured against."""
