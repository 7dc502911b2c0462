"""Properties are checked without a clock: a busy machine must not fail them."""

from hypothesis import HealthCheck, settings

settings.register_profile("collectors", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("collectors")
