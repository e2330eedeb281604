"""Hashes of the parts of a plan that an approval covers. Equal plans have equal hashes, wherever they are built.

A plan also has an id, instants and intervals. Two equal plans differ in these, and each run of prod changes the
intervals. So no hash covers them.
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
    """A hash of each part, by its name.

    The parts are about everything that the environment will show, not about the difference. So if an apply was killed
    while it promoted, its repetition has the same hashes, although nothing differs any more.
    """
    diff, naming = plan.context_diff, plan.environment_naming_info
    snapshots = sorted(diff.snapshots.values(), key=lambda snapshot: snapshot.name)
    # As the last finished plan has left them. Its id is no part: a restatement and each attempt are plans too.
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
        # As they are now. The state does not remember those of the last finished plan.
        "previous statements": _hash(
            [sorted(map(_statements, diff.previous_environment_statements)), diff.previous_requirements]
        ),
    }


def _versions(snapshots: Iterable[SnapshotInfoLike]) -> str:
    return _hash([[s.name, s.fingerprint.to_identifier(), s.version] for s in snapshots])


def _statements(of_project: EnvironmentStatements) -> str:
    return json.dumps(of_project.dict(), sort_keys=True, default=str)


def _hash(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()
