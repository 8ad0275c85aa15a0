"""Running state machines: to see that they stay green, and that a planted bug turns them red."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from ledger.datastore import Datastore

Machine = type[RuleBasedStateMachine]


@contextmanager
def given_stores(machine: Any, datastore: Datastore, database_url: str) -> Iterator[None]:
    """Lend a machine the stores of a fresh database: the application's, and its owner's."""
    machine.datastore = datastore
    with closing(Datastore(database_url, session={"role": None})) as machine.owner:
        yield


def run(machine: Machine, examples: int, steps: int, *, shrinks: bool = False) -> None:
    """Let anything happen in any order; what fails is kept, and made small where it can be."""
    phases = [Phase.explicit, Phase.generate]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[*phases, Phase.shrink] if shrinks else phases,
        ),
    )


def hunt(machine: Machine, examples: int, steps: int) -> None:
    """Do the same things in every run and stop at the first failure: one is all that is asked."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )
