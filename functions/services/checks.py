"""Which command checks the configuration of which service. None of them changes what a start would not."""

from fnmatch import fnmatchcase

from schemas.facts.units import Unit
from schemas.settings.services import ServiceMonitoring

TIMEOUT = 30.0
"""Seconds."""

CHECKS = {
    "nginx.service": ("nginx", "-t", "-q"),
    "apache2.service": ("apache2ctl", "configtest"),
    "httpd.service": ("apachectl", "configtest"),
    "haproxy.service": ("haproxy", "-c", "-q", "-f", "/etc/haproxy/haproxy.cfg"),
    "lighttpd.service": ("lighttpd", "-tt", "-f", "/etc/lighttpd/lighttpd.conf"),
    "ssh.service": ("sshd", "-t"),
    "sshd.service": ("sshd", "-t"),
    "named.service": ("named-checkconf",),
    "bind9.service": ("named-checkconf",),
    "unbound.service": ("unbound-checkconf",),
    "dnsmasq.service": ("dnsmasq", "--test"),
    "postfix.service": ("postfix", "check"),
    "postfix@*.service": ("postfix", "check"),
    "rsyslog.service": ("rsyslogd", "-N1"),
}
"""Glob of units → program, looked for where the system's are, and its arguments. Source: the programs' manual pages."""


def check_of(unit: Unit, settings: ServiceMonitoring) -> tuple[str, ...] | None:
    """What the settings say, or else the table; none when neither knows the unit. Pure."""
    own = settings.of(*unit.names).check
    if own is not None:
        return own
    return next((argv for glob, argv in CHECKS.items() if any(fnmatchcase(name, glob) for name in unit.names)), None)
