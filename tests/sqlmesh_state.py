"""Print the content of the SQLMesh state as JSON. Argument: PROJECT.

Run it in the folder in which you would run SQLMesh.
"""

import json
import sys

from sqlmesh import Context


def main(path: str) -> None:
    context = Context(paths=[path], load=False)
    stored_environment = context.state_reader.get_environment("prod")
    snapshots = context.state_reader.get_snapshots(stored_environment.snapshots).values() if stored_environment else []
    content = {
        "intervals": {snapshot.name: sum(end - start for start, end in snapshot.intervals) for snapshot in snapshots},
        "ranges": {snapshot.name: snapshot.intervals for snapshot in snapshots},
        "versions": {snapshot.name: snapshot.version for snapshot in snapshots},
        "data_hashes": {snapshot.name: snapshot.fingerprint.data_hash for snapshot in snapshots},
    }
    context.close()
    print(json.dumps(content))


main(*sys.argv[1:])
