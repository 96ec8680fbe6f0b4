"""The plan of a study as a page to read: what it costs, what will not fit, and how memory was estimated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import pandas as pd

from budwood.arch.bytes import spell_bytes
from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture
from budwood.records.cost import STAGES
from budwood.records.names import SHARED, Variant
from budwood.records.workload import Workload
from budwood.reporting import formats
from budwood.reporting.ledger import PROBE
from budwood.reporting.markup import markdown_table, plural
from budwood.reporting.memory import Memory

_MEMORY_PARTS = tuple(Memory.__slots__)
_NO_MEMORY = Memory(weights=0)
NUM_MEMBERS = 64
"""Sub-networks drawn from every bin."""
ROOM = 0.9
"""Share of a device's memory that is planned with: its runtime, fragments and what estimates miss take the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """What a stage costs, and what it takes of a device and of a disk; a row as the ledger has one, or the text."""

    stage: str
    bin: str = SHARED
    space: str = SHARED
    arm: str = SHARED
    tokens: float = 0
    flops: float = 0
    paper_flops: float = math.nan
    """What the paper charges in place of a search (the bin's centre at 2,048 tokens), and of `random_init` (the
    training of the bin's centre)."""
    device_hours: float = 0
    num_parameters: int = 0
    """Of the largest model."""
    memory: Memory = _NO_MEMORY
    """Of one device."""
    disk_bytes: float = 0
    """That stay."""
    passing_disk_bytes: float = 0
    """That checkpoints take until the run ends."""
    taken: str = ""
    """Of what a bin limits, by a search."""
    work: Workload | None = None
    """All that is done, where that is known."""

    def holding(self, memory: Memory, largest: Architecture) -> Self:
        """Return the row with the memory that its largest model takes."""
        return replace(self, memory=memory, num_parameters=num_parameters(largest))


def plan_table(rows: Sequence[PlanRow]) -> pd.DataFrame:
    """Return the rows of a plan as a table: without their work, and with the parts of `memory_bytes` at the end."""
    names = [each.name for each in fields(PlanRow) if each.name != "work"]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    parts = {f"{part}_bytes": [getattr(row.memory, part) for row in rows] for part in _MEMORY_PARTS}
    totals = [row.memory.total for row in rows]
    table = pd.DataFrame(columns | {"memory": totals} | parts).rename(columns={"memory": "memory_bytes"})
    return table.astype(dict.fromkeys(table.columns.difference(["stage", "bin", "space", "arm", "taken"]), float))


def disk_bytes(planned: pd.DataFrame) -> float:
    """Return what a study takes on disk at most: all that stays, and the checkpoints of one run at a time."""
    return float(planned["disk_bytes"].sum() + planned["passing_disk_bytes"].max())


def markdown_plan(
    planned: pd.DataFrame,
    devices: tuple[str, int],
    speed: str,
    warnings: Sequence[str],
    ablations: pd.DataFrame | None = None,
) -> str:
    """Return a plan as markdown.

    Args:
        planned: the frame of `budwood.study.plan.plan`.
        devices: name of the accelerator, and how many train in parallel.
        speed: how fast it is taken to be, such as "at 40% of its peak".
        warnings: what will not fit.
        ablations: the frame of `budwood.study.ablation.plan_ablations`, where there are any.
    """
    sections = {
        "What will not fit": "\n".join(f"- {warning}" for warning in warnings),
        "By stage": _stages(planned),
        "By variant": _variants(planned, devices[1]),
        "Memory of one device": _memory(planned),
    }
    if ablations is not None:
        sections["Ablations, each run by name"] = _ablations(ablations)
    if not warnings:
        sections["What will not fit"] = "Everything fits."
    pages = [f"## {name}\n\n{body}" for name, body in sections.items()]
    return "\n\n".join(["# What this study will cost", _headline(planned, devices, speed), *pages]) + "\n"


def _headline(planned: pd.DataFrame, devices: tuple[str, int], speed: str) -> str:
    name, number = devices
    variants = planned[(planned["stage"] == "search") & (planned["bin"] != SHARED)]
    runs, probes = (int((planned["stage"] == stage).sum()) for stage in ("training", PROBE))
    searches = f"{len(variants)} {'search' if len(variants) == 1 else 'searches'}"
    probed = f", {plural(probes, 'probe')}" if probes else ""
    hours = planned["device_hours"].sum()
    spent = f"**{formats.flops(planned['flops'].sum())}**, **{formats.significant(hours)} device-hours**"
    how = f"on {name} {speed}, {_time(hours, number)} with {number} at a time"
    disk = spell_bytes(disk_bytes(planned))
    return f"{searches}{probed} and {plural(runs, 'training run')}: {spent} {how}, and up to **{disk}** on disk."


def _time(device_hours: float, num_devices: int) -> str:
    return formats.duration(3600 * device_hours / num_devices)


def _stages(planned: pd.DataFrame) -> str:
    totals = planned.groupby("stage", sort=False)[["flops", "tokens", "device_hours", "disk_bytes"]].sum()
    totals = totals.reindex(["text", *STAGES]).dropna()
    totals.loc["all"] = totals.sum()
    columns = {
        "stage": totals.index.tolist(),
        "FLOPs": totals["flops"].map(formats.flops).tolist(),
        "share": [f"{100 * flops / totals.loc['all', 'flops']:.1f}%" for flops in totals["flops"]],
        "tokens": totals["tokens"].map(formats.count).tolist(),
        "device-hours": totals["device_hours"].map(formats.significant).tolist(),
        "stays on disk": totals["disk_bytes"].map(spell_bytes).tolist(),
    }
    note = (
        "Evaluation includes losses, held-out questions and timing, but no other tasks of lm_eval: the plan does not "
        "read their texts."
    )
    return f"{note}\n\n{markdown_table(columns, 1)}"


def _ablations(ablations: pd.DataFrame) -> str:
    columns = {
        "pipeline": [f"`ablation_{name}`" for name in ablations["ablation"]],
        "bin": ablations["bin"].tolist(),
        "searches": ablations["searches"].map(str).tolist(),
        "training runs": ablations["runs"].map(str).tolist(),
        "search": ablations["search_flops"].map(formats.flops).tolist(),
        "training": ablations["training_flops"].map(formats.flops).tolist(),
        "teacher": ablations["teacher_flops"].map(formats.flops).tolist(),
        "device-hours": ablations["device_hours"].map(formats.significant).tolist(),
    }
    note = (
        "These are not in the numbers above. Each is counted by itself; a search that several need is run once. Text "
        "and calibration are extra."
    )
    return f"{note}\n\n{markdown_table(columns, 2)}"


def _variants(planned: pd.DataFrame, num_devices: int) -> str:
    rows = [
        _variant(part, num_devices)
        for _, part in planned[planned["bin"] != SHARED].groupby(["bin", "space"], sort=False)
    ]
    limited = any(row["limited"] for row in rows)
    columns = {name: [row[name] for row in rows] for name in rows[0] if limited or name != "limited"}
    note = (
        f"Means over {NUM_MEMBERS} members of each bin, because the winner is not known yet. A search counts "
        "every candidate as if it read all text; races drop many earlier. The paper charges a search as its bin's "
        "centre at 2,048 tokens of context; the last column is the training of that centre from random weights."
    )
    return f"{note}\n\n{markdown_table(columns, 1)}"


def _variant(part: pd.DataFrame, num_devices: int) -> dict[str, str]:
    by_stage = part.groupby("stage")["flops"].sum()
    search, training = (part[part["stage"] == stage] for stage in ("search", "training"))
    hours = part["device_hours"].sum()
    return {
        "variant": str(Variant(str(part["bin"].iloc[0]), str(part["space"].iloc[0]))),
        "largest": formats.count(part["num_parameters"].max()),
        "limited": search["taken"].iloc[0] if len(search) else "",
        "search": formats.flops(by_stage.get("search", 0.0)),
        "as the paper charges": formats.flops(search["paper_flops"].sum()),
        "probe": formats.flops(by_stage.get(PROBE, 0.0)),
        "training, each arm": formats.flops(training["flops"].mean()),
        "teacher": formats.flops(by_stage.get("teacher", 0.0)),
        "held out, evaluation": formats.flops(by_stage.reindex(["heldout", "evaluation", "certificate"]).sum()),
        "device-hours": formats.significant(hours),
        "time": _time(hours, num_devices),
        "centre's training": formats.flops(training["paper_flops"].sum()),
    }


def _memory(planned: pd.DataFrame) -> str:
    """Return the table of the largest model of every stage and arm, by what uses its memory."""
    held = planned[planned["memory_bytes"] > 0]
    largest = held.loc[held.groupby(["stage", "arm"], sort=False)["memory_bytes"].idxmax()]
    names = zip(largest["stage"], largest["arm"], largest["bin"], largest["space"], strict=True)
    columns = {
        "largest of": [f"{stage} {arm} ({Variant(b, s)})".replace("  ", " ") for stage, arm, b, s in names],
        "parameters": largest["num_parameters"].map(formats.count).tolist(),
        **{part: largest[f"{part}_bytes"].map(spell_bytes).tolist() for part in _MEMORY_PARTS},
        "all": largest["memory_bytes"].map(spell_bytes).tolist(),
    }
    note = (
        "Training keeps float32 weights (4 bytes a parameter, 2 more for bfloat16 copies), gradients (4) and AdamW's "
        "moments (8). Activations are what autograd keeps of a micro-batch, with nothing recomputed. `head` is the "
        "gradient of the output weights and a chunk of logits. A teacher is ranked and cut layer by layer: the weights "
        "and second moments of one layer are in memory at a time. The estimate assumes no sharding. A model may take "
        f"{ROOM:.0%} of a device."
    )
    return f"{note}\n\n{markdown_table(columns, 1)}"
