"""What a project turns on: a folder each, with its attribute, its job, its messages and its half of the worker.

No module outside a folder imports it, except the few that list all of them, and folders that a table in
`tests/test_doors.py` names. These packages import nothing themselves, because both worlds import parts of them.
"""
