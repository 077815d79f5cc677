"""A run -> one JSON value for programs; `result.schema.json` beside this file says what is in it."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ecocore.bench.compare import Agreement, differences_of, levels_of
from ecocore.bench.figures import GAP_EDGES_MS
from ecocore.bench.machine import machine
from ecocore.bench.plan import Plan, Run, Step
from ecocore.bench.probe import Target

SCHEMA: Final = "ecocore.bench/1"
NAMES: Final = "AB"


@dataclass(frozen=True, slots=True)
class Setting:
    """When and where a run began."""

    taken: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    machine: dict[str, Any] = field(default_factory=machine)


def document(run: Run, agreement: Agreement | None, setting: Setting) -> dict[str, Any]:
    """Everything a run found out."""
    made: dict[str, Any] = _rounded(
        {
            "schema": SCHEMA,
            "taken": setting.taken,
            "machine": setting.machine,
            "settings": _settings(run.plan),
            "servers": [_server(number, target) for number, target in enumerate(run.targets)],
            "interrupted": run.interrupted,
            "gap_edges_ms": GAP_EDGES_MS,
            "steps": [_step(step) for step in run.steps],
            "levels": [asdict(level) | {"server": NAMES[level.server]} for level in levels_of(run)],
            "comparison": _comparison(run, agreement),
        }
    )
    return made


def _settings(plan: Plan) -> dict[str, Any]:
    settings = asdict(plan)
    settings["requests"] = settings.pop("count")
    return settings


def _server(number: int, target: Target) -> dict[str, Any]:
    return {
        "name": NAMES[number],
        "url": target.endpoint.url,
        "model": target.model,
        "fingerprint": target.fingerprint,
        "limit_field": target.fields.limit,
        "fields_refused": sorted(target.fields.dropped),
        "counts_tokens": target.counts,
    }


def _step(step: Step) -> dict[str, Any]:
    assert step.figures is not None
    place = {"server": NAMES[step.server], "streams": step.streams, "round": step.round + 1, "broken_off": step.broken_off}
    return place | {"figures": asdict(step.figures)}


def _comparison(run: Run, agreement: Agreement | None) -> dict[str, Any] | None:
    if len(run.targets) < 2:
        return None
    return {
        "agreement": None if agreement is None else asdict(agreement),
        "levels": [asdict(difference) for difference in differences_of(run)],
    }


def _rounded(value: Any) -> Any:
    """Four digits behind the point: more would say more than was measured."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, (list, tuple)) else value
