"""Tell random stories: the command line, the loop over seeds, what is printed, and the exit status."""

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import worker_zygote
from databases import started


@dataclass(kw_only=True)
class Told:
    """What one story has done, and what was wrong.

    Attributes:
        log: What one needs to understand a fault.
        faults: Each claim that was wrong, with details.
        counts: What the story has done, to be added to those of other stories.
    """

    log: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def fault(self, claim: str, details: object) -> None:
        self.faults.append((claim, f"{claim}, in line {len(self.log)} of the log: {details}"))

    @contextmanager
    def to_its_end(self) -> Iterator[None]:
        """Let an exception be a fault of this story."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # other stories are told
            self.fault(type(error).__name__, traceback.format_exc(limit=-5))

    def __str__(self) -> str:
        lines = [*self.log, *(f"FAULT {details}" for _, details in self.faults)]
        return "".join(f"\n    {line}" for line in lines)


def today() -> date:
    return datetime.now(timezone.utc).date()


def tell(
    description: str | None,
    story: Callable[..., Told],
    engines: Sequence[str] = ("duckdb",),
    stories: int = 50,
    setting: Callable[[Collection[str]], AbstractContextManager[Any]] = started,
    **choices: Collection[str],
) -> None:
    """Tell as many stories as the command line says.

    Args:
        story: Tells one story. Its arguments are the seed, the engine, an empty folder, and what stories share.
        setting: Starts what stories share. By default, these are the servers that some engines need.
        choices: Further options of the command line, which are further arguments of `story`.

    Raises:
        SystemExit: The status is 1 if a story has a fault.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=stories)
    parser.add_argument("--seed", type=int, default=1, help="of the first story; the others have the next ones")
    parser.add_argument("--engines", nargs="+", choices=engines, default=engines, help="the seed chooses one of them")
    for name, values in choices.items():
        parser.add_argument(f"--{name}", choices=values)
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in choices}
    counts, seeds, begin = Counter[str](), defaultdict[str, list[int]](list), time.monotonic()
    with worker_zygote.forked_workers(), setting(arguments.engines) as shared:
        for seed in range(arguments.seed, arguments.seed + arguments.stories):
            engine, since = arguments.engines[seed % len(arguments.engines)], time.monotonic()
            print(f"--stories 1 --seed {seed} --engines {engine}:", end=" ", flush=True)
            told = told_on_one_day(partial(story, seed, engine), shared, options)
            seconds = time.monotonic() - since
            print(f"{len(told.faults)} faults, {seconds:.0f} s", told if told.faults else "", flush=True)
            counts += told.counts
            for claim in {claim for claim, _ in told.faults}:
                seeds[claim].append(seed)
    print(*(f"{name}: {number}" for name, number in sorted(counts.items())), sep="\n")
    print(f"{time.monotonic() - begin:.0f} seconds. Seeds with faults: {dict(seeds)}")
    sys.exit(1 if seeds else 0)


def told_on_one_day(story: Callable[..., Told], shared: object, options: dict[str, str]) -> Told:
    """Tell a story in a folder. If the day ends before it does, tell it again: one more day is pending."""
    while True:
        day, told = today(), Told()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, told.to_its_end():
            told = story(Path(folder).resolve(), shared, **options)
        if day == today():
            return told
