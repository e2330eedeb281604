"""Hashes of the parts of a plan that an approval covers. Equal plans have equal hashes, wherever they are built.

A plan also contains its id, instants, and intervals. These differ between two equal plans, and each run of prod changes
the intervals, so they are no part of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlmesh.core.environment import EnvironmentStatements
from sqlmesh.core.plan import Plan


def plan_parts(plan: Plan, previous_plan_id: str | None) -> dict[str, str]:
    """A hash of each part.

    The parts are about everything that the environment will show, not about the difference. So an apply that was killed
    while it promoted has the same hashes when it is repeated, although nothing differs any more.

    Args:
        previous_plan_id: The plan that the environment shows before this one, or showed before it was begun.
    """
    diff, naming = plan.context_diff, plan.environment_naming_info
    snapshots = sorted(diff.snapshots.values(), key=lambda snapshot: snapshot.name)
    return {
        "previous plan": _hash(previous_plan_id),
        "models": _hash([[s.name, s.fingerprint.to_identifier(), s.version] for s in snapshots]),
        "categories": _hash(
            [[s.name, s.change_category and s.change_category.name, s.is_forward_only] for s in snapshots]
        ),
        "statements": _hash(sorted(map(_statements, diff.environment_statements))),
        "requirements": _hash(diff.requirements),
        "settings": _hash([naming.dict(), plan.forward_only, plan.no_gaps, plan.skip_backfill, plan.empty_backfill]),
    }


def _statements(of_project: EnvironmentStatements) -> str:
    return json.dumps(of_project.dict(), sort_keys=True, default=str)


def _hash(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()[:10]
