import typing as t

from sqlmesh import signal
from sqlmesh.utils.date import DatetimeRanges


@signal()
def landed(batch: DatetimeRanges) -> t.Union[bool, DatetimeRanges]:
    import os

    return not os.path.exists("hold")
