"""Asks a live server for everything that /openapi.json says, rightly and wrongly, and holds each answer to the document.

No answer may be a 5xx; its status, media type, headers and body must be as described. `python -m tests.schema`; exit status 1
on any violation. schemathesis makes the requests and judges the answers; the engine is the mock one.
"""

import argparse
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi_checks
from tests.live_server import MODEL, Live, serving

if TYPE_CHECKING:
    from schemathesis.schemas import APIOperation

CONTEXT_LENGTH: Final = 512
# Endpoints that take no body have few requests to tell apart.
FEW: Final = 20
MAX_TOLD: Final = 10


@dataclass
class Tally:
    """What was asked and answered: (operation, status) -> requests, and what was not as described."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.answers.total()


def ask(live: Live, count: int, *, start: int = 0, document: dict[str, Any] | None = None) -> Tally:
    """At least `count` requests to all operations, the same ones for the same `start`. Half of them break the document.

    `document`: to be held to in the place of the server's own.
    """
    schema = schemathesis.openapi.from_dict(document or requests.get(f"{live.url}/openapi.json", timeout=10).json())
    schema.config.update(base_url=live.url)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    each = -(-count // sum(bool(operation.body) for operation in operations))
    tally = Tally()
    with requests.Session() as session:
        session.headers["authorization"] = f"Bearer {live.key}"
        for operation in operations:
            for mode in GenerationMode:
                share = -(-(each if operation.body else FEW) // 2)
                _ask_one(operation, mode, share, session, tally, start=start)
    return tally


def _ask_one(
    operation: "APIOperation[Any, Any, Any, Any]",
    mode: GenerationMode,
    count: int,
    session: requests.Session,
    tally: Tally,
    *,
    start: int,
) -> None:
    @seed(start)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        if isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
            # A right request for a model that is there; any other name would end in a 404 before all else is judged.
            case.body["model"] = MODEL
        response = case.call(session=session)
        tally.answers[operation.label, response.status_code] += 1
        try:
            case.validate_response(
                response,
                checks=[
                    schemathesis.checks.not_a_server_error,
                    openapi_checks.status_code_conformance,
                    openapi_checks.content_type_conformance,
                    openapi_checks.response_headers_conformance,
                    openapi_checks.response_schema_conformance,
                ],
            )
        except FailureGroup as failures:
            tally.violations.append(f"{operation.label}: {failures}\n{case.as_curl_command()[:500]}")

    # Some operations take nothing that could be wrong.
    with suppress(Unsatisfiable):
        one()


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each operation and status; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), context_length=CONTEXT_LENGTH) as live:
        tally = ask(live, options.requests, start=options.seed)
    for (operation, status), number in sorted(tally.answers.items()):
        sys.stdout.write(f"{operation:32} {status} {number:6}\n")
    sys.stdout.write(f"{tally.requests} requests, {len(tally.violations)} answers not as described\n")
    for violation in tally.violations[:MAX_TOLD]:
        sys.stdout.write(f"\n{violation}\n")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
