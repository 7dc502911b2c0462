"""The only place that builds or parses subjects and keys.

A host becomes one token, dots to dashes. A target becomes 16 hexadecimal digits of the SHA-256 of its
canonical name, since names hold `@`, `#`, `/` and spaces; the name itself is in the data.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,63}")
ANY_HOST = "any"
"""The host token of a central function's triggers."""


class BadSubject(ValueError):
    """The parts do not make a subject, or the subject is none of ours."""


@lru_cache(maxsize=4096)
def _token(text: str, what: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise BadSubject(f"{what} {text!r} is no subject token; allowed are letters, digits, - and _")
    return text


def host_token(host: str) -> str:
    """The host name as one token. Raises BadSubject for a name that is none."""
    return _token(host.strip(".").replace(".", "-"), "host")


@lru_cache(maxsize=4096)
def target_token(target: str) -> str:
    """Sixteen hexadecimal digits that stand for *target*."""
    return hashlib.sha256(target.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def split_name(name: str) -> tuple[str, str]:
    """`disk.free_space` as (domain, function). Raises BadSubject."""
    domain, dot, function = name.partition(".")
    if not dot:
        raise BadSubject(f"{name!r} is no function or collector name; they look like disk.free_space")
    return _token(domain, "domain"), _token(function, "function")


def health(host: str, domain: str, signal: str, target: str) -> str:
    return (
        f"ansai.health.{host_token(host)}.{_token(domain, 'domain')}.{_token(signal, 'signal')}.{target_token(target)}"
    )


def health_pattern(host: str | None, domain: str, signal: str) -> str:
    """What a function listens to; host None hears all hosts."""
    return f"ansai.health.{host_token(host) if host else '*'}.{domain}.{signal}.*"


def trigger(host: str, function: str, who: str | None = None) -> str:
    base = f"ansai.trigger.{host_token(host)}.{'.'.join(split_name(function))}"
    return f"{base}.{_token(who, 'operator')}" if who else base


def trigger_patterns(host: str, function: str) -> tuple[str, str]:
    """Without and with the operator's token."""
    base = trigger(host, function)
    return base, f"{base}.*"


def action(host: str, function: str, step: str) -> str:
    return f"ansai.action.{host_token(host)}.{'.'.join(split_name(function))}.{_token(step, 'step')}"


def audit(host: str, function: str, emitter: str) -> str:
    return f"ansai.audit.{host_token(host)}.{'.'.join(split_name(function))}.{_token(emitter, 'emitter')}"


def checkpoint(host: str, function: str, emitter: str) -> str:
    return f"ansai.checkpoint.{host_token(host)}.{'.'.join(split_name(function))}.{_token(emitter, 'emitter')}"


def approval(host: str, function: str, state: str, who: str | None = None) -> str:
    base = f"ansai.approval.{host_token(host)}.{'.'.join(split_name(function))}.{_token(state, 'state')}"
    return f"{base}.{_token(who, 'operator')}" if who else base


def answer_patterns(host: str, function: str) -> tuple[str, ...]:
    """What a function hears of approvals: every answer, with or without the operator's token."""
    return tuple(f"{approval(host, function, state)}{who}" for state in ("granted", "denied") for who in ("", ".*"))


def alert(host: str, function: str, severity: str) -> str:
    return f"ansai.alert.{host_token(host)}.{'.'.join(split_name(function))}.{_token(severity, 'severity')}"


def dead_letter(function: str) -> str:
    return f"ansai.dlq.{'.'.join(split_name(function))}"


def heartbeat(host: str, component: str) -> str:
    return f"ansai.heartbeat.{host_token(host)}.{_token(component, 'component')}"


@lru_cache(maxsize=4096)
def state_key(host: str, function: str, target: str) -> str:
    """Key of an incident or a lease."""
    return f"{host_token(host)}.{'.'.join(split_name(function))}.{target_token(target)}"


def state_prefix(host: str, function: str) -> str:
    """What all `state_key`s of a function on a host begin with, final dot included."""
    return f"{host_token(host)}.{'.'.join(split_name(function))}."


def host_key(host: str) -> str:
    """Key of a host's claim to its name."""
    return f"host.{host_token(host)}"


def plan_key(host: str, function: str, target: str, plan_hash: str) -> str:
    """Key of a plan that waits for approval."""
    return f"{state_key(host, function, target)}.{plan_hash[:16]}"


def scope_key(host: str, resource: str) -> str:
    """Key of the lease on something that several functions may want to change: a filesystem, a unit."""
    return f"{host_token(host)}.scope.{target_token(resource)}"


FREEZE = "freeze"
"""Key of the kill switch in the bucket `fleet`."""


AUDIT_FILL = "audit.fill"
"""Key of how full the audit trail was when people were last told, in the bucket `fleet`."""


def group_key(kind: str, group: str, function: str, host: str | None = None) -> str:
    """Key of what a group's hosts share about one function: kind `member` (with a host), `slots` or `storm`."""
    base = f"{kind}.{_token(group, 'group')}.{'.'.join(split_name(function))}"
    return f"{base}.{host_token(host)}" if host is not None else base


def spent_key(host: str) -> str:
    return f"spent.{host_token(host)}"


def key_of_signer(host: str, fingerprint: str) -> str:
    """Key under which a host's public audit key is announced, so that a verifier elsewhere knows it."""
    return f"signer.{host_token(host)}.{fingerprint[:16]}"


def valid_key(key: str) -> bool:
    """Whether *key* is made of tokens with single dots between them."""
    return all(_TOKEN.fullmatch(token) for token in key.split("."))


def durable(name: str) -> str:
    """A consumer's name: no dots, which nats refuses."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:128]


def matches(pattern: str, subject: str) -> bool:
    """Whether *subject* is one of those that *pattern* stands for: `*` is one token, a final `>` one or more."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(want in ("*", token) for want, token in zip(wanted, tokens, strict=True))


@dataclass(frozen=True)
class Subject:
    """A parsed subject: kind (`health`, `trigger`, …), and what its kind has of the other parts."""

    kind: str
    host: str = ""
    domain: str = ""
    name: str = ""
    """The signal of a health subject, the function's own name elsewhere."""
    last: str = ""
    """Target token, operator, step, emitter or severity."""

    @property
    def function(self) -> str:
        return f"{self.domain}.{self.name}"


def parse(subject: str) -> Subject:
    """Take a subject apart. Raises BadSubject when it is none of ours."""
    parts = subject.split(".")
    if parts[0] == "ansai" and all(parts):
        if parts[1] == "dlq" and len(parts) == 4:
            return Subject("dlq", domain=parts[2], name=parts[3])
        if parts[1] == "heartbeat" and len(parts) == 4:
            return Subject("heartbeat", host=parts[2], last=parts[3])
        if parts[1] in {"health", "action", "audit", "alert", "checkpoint"} and len(parts) == 6:
            return Subject(*parts[1:6])
        if parts[1] == "trigger" and len(parts) in {5, 6}:
            return Subject(parts[1], parts[2], parts[3], parts[4], last="".join(parts[5:]))
        if parts[1] == "approval" and len(parts) in {6, 7}:
            return Subject(parts[1], parts[2], parts[3], parts[4], last=".".join(parts[5:]))
    raise BadSubject(f"{subject!r} is none of ours; see the table of subjects in the README")
