"""Prints what SQLMesh's own state says, as JSON: ENVIRONMENT PROJECT. Run it where SQLMesh would run."""

import json
import sys

from sqlmesh import Context


def main(environment: str, path: str) -> None:
    context = Context(paths=[path], load=False)
    stored = context.state_reader.get_environment(environment)
    snapshots = context.state_reader.get_snapshots(stored.snapshots).values() if stored else []
    found = {
        "intervals": {snapshot.name: sum(end - start for start, end in snapshot.intervals) for snapshot in snapshots},
        "ranges": {snapshot.name: snapshot.intervals for snapshot in snapshots},
        "versions": {snapshot.name: snapshot.version for snapshot in snapshots},
        "data_hashes": {snapshot.name: snapshot.fingerprint.data_hash for snapshot in snapshots},
    }
    context.close()
    print(json.dumps(found))


main(*sys.argv[1:])
