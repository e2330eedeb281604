"""Execute SQL with the connection of a SQLMesh project, and print the rows of each statement as JSON.

Arguments: PROJECT and the statements.
"""

import json
import sys

from sqlmesh import Context


def main(path: str, *statements: str) -> None:
    context = Context(paths=[path], load=False)
    adapter = context.engine_adapter
    rows = []
    for statement in statements:
        adapter.execute(statement)
        is_query = statement.startswith("SELECT")
        rows.append([list(row) for row in adapter.cursor.fetchall()] if is_query else [])
    context.close()
    print(json.dumps(rows, default=str))


main(*sys.argv[1:])
