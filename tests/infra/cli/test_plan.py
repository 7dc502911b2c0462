"""What `ansai plan` says of the policy."""

import pytest

from infra.cli.plan import allowed
from schemas.settings.policy import EffectivePolicy


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({}, "mode dry_run: it only tells what it would do"),
        ({"mode": "auto"}, "mode auto: it acts by itself; with what is irreversible it asks before it acts"),
        ({"mode": "approve"}, "mode approve: it asks before it acts"),
        ({"enabled": False}, "the policy has switched it off"),
    ],
)
def test_a_plan_says_how_far_the_policy_lets_it_go(policy, said):
    assert allowed(EffectivePolicy.model_validate(policy)) == said
