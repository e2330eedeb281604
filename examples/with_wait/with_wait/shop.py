"""The ticket shop of the museum, as a source of dlt."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import dlt


@dlt.source(name="tickets")
def tickets(first: date = date.min, end: date = date.min) -> Any:
    """The days from `first` to the day before `end`. A real source would read the API of the shop here."""

    @dlt.resource(write_disposition="merge", primary_key="ticket_id")
    def sold() -> Iterator[dict[str, Any]]:
        """Five sold tickets a day."""
        for ago in range((end - first).days):
            day = first + timedelta(days=ago)
            for number in range(1, 6):
                yield {
                    "ticket_id": day.toordinal() * 10 + number,
                    "sold_on": day,
                    "exhibition_id": day.day * number % 3 + 1,
                }

    return sold
