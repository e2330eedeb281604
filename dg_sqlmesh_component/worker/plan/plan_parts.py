"""Hashes of the parts of a plan that an approval covers. Equal plans have equal hashes, wherever they are built.

A plan also contains its id, instants, and intervals. These differ between two equal plans, and each run of prod changes
the intervals, so they are no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from sqlmesh.core.environment import EnvironmentStatements
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import SnapshotInfoLike


def plan_parts(plan: Plan, select: Iterable[str]) -> dict[str, str]:
    """A hash of each part.

    The parts are about everything that the environment will show, not about the difference. So an apply that was killed
    while it promoted has the same hashes when it is repeated, although nothing differs any more: the previous models
    stay those that the environment showed when a plan had finished last. The previous plan is no part: a restatement is
    a plan too, and so is each attempt.
    """
    diff, naming = plan.context_diff, plan.environment_naming_info
    snapshots = sorted(diff.snapshots.values(), key=lambda snapshot: snapshot.name)
    finished = diff.previous_finalized_snapshots if diff.is_unfinalized_environment else diff.environment_snapshots
    return {
        "models": _versions(snapshots),
        "categories": _hash(
            [[s.name, s.change_category and s.change_category.name, s.is_forward_only] for s in snapshots]
        ),
        "statements": _hash(sorted(map(_statements, diff.environment_statements))),
        "requirements": _hash(diff.requirements),
        "settings": _hash([naming.dict(), plan.forward_only, plan.no_gaps, plan.skip_backfill, plan.empty_backfill]),
        "selection": _hash(sorted(set(select))),
        "previous models": _versions(sorted(finished or (), key=lambda snapshot: snapshot.name)),
    }


def _versions(snapshots: Iterable[SnapshotInfoLike]) -> str:
    return _hash([[s.name, s.fingerprint.to_identifier(), s.version] for s in snapshots])


def _statements(of_project: EnvironmentStatements) -> str:
    return json.dumps(of_project.dict(), sort_keys=True, default=str)


def _hash(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()[:10]
