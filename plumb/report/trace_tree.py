"""Terminal report of a traced pipeline: its calls as a tree, its operators with their times, and a conclusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plumb.report.output import as_plain_text
from plumb.tracing.pipeline import Operator, Pipeline

BAR_WIDTH = 8
FIGURE_WIDTH = 6
REMARKS_WIDTH = 25
TRUSTED_SHARE = 0.2
# Fewer columns of a terminal than this leave no room for names beside bars and remarks.
_WIDE, _NARROW_COLUMNS = 72, 3
# Columns of figures, bars and remarks, with the gaps before them, and of the usual indent of names.
_BESIDE_NAMES = FIGURE_WIDTH + len("share") + BAR_WIDTH + REMARKS_WIDTH + 8 + 4


@dataclass
class Branch:
    """An expanded call, with the operators and the calls inside it."""

    name: str
    entries: list[Branch | Operator] = field(default_factory=list)

    def operators(self) -> Iterable[Operator]:
        for entry in self.entries:
            if isinstance(entry, Branch):
                yield from entry.operators()
            else:
                yield entry

    @property
    def wall_seconds(self) -> float:
        return sum(operator.wall_seconds for operator in self.operators())


def render(pipeline: Pipeline, width: int = 120) -> RenderableType:
    """Return a table of one sample's time, followed by the hottest operator and whether it computes or waits.

    On a terminal of few columns (`width`), remarks stand below the names, and there are no bars.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("operator", ratio=1, overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True, min_width=FIGURE_WIDTH)
    table.add_column("share", justify="right", no_wrap=True, min_width=len("share"))
    if width >= _WIDE:
        table.add_column("", no_wrap=True, min_width=BAR_WIDTH)
        table.add_column("what it does", min_width=REMARKS_WIDTH, overflow="fold")
    whole = max(pipeline.sample_seconds, pipeline.attributed_seconds)
    names = _fitted([operator.name for operator in pipeline.operators], width - _BESIDE_NAMES)
    hottest = pipeline.hottest() if pipeline.operators else None
    _add_rows(table, _tree(pipeline), hottest, whole, "", names if width >= _WIDE else {})
    _add_row(
        table,
        Text("unattributed", style="dim"),
        [Text(figure) for figure in _figures(pipeline.unattributed_seconds, whole)],
        _bar(pipeline.unattributed_seconds, 0.0, whole),
        Text("the code between them", style="dim"),
    )
    return Group(_title(pipeline), Padding(table, (1, 0)), _conclusion(pipeline))


def _fitted(names: Iterable[str], room: int) -> dict[str, str]:
    """Return names that are longer than `room` without their middles; none if two of them would be alike."""
    long = {name for name in names if len(name) > room}
    fitted = {name: f"{name[: room // 2]}\N{HORIZONTAL ELLIPSIS}{name[room // 2 + 1 - room :]}" for name in long}
    return fitted if len(set(fitted.values())) == len(long) else {}


def _add_row(table: Table, name: Text, figures: Iterable[Text], bar: Text, remarks: Text) -> None:
    if len(table.columns) > _NARROW_COLUMNS:
        table.add_row(name, *figures, bar, remarks)
    else:
        indent = " " * (len(name.plain) - len(name.plain.lstrip()))
        table.add_row(Text.assemble(name, f"\n{indent}" if remarks else "", remarks), *figures)


def as_text(pipeline: Pipeline) -> str:
    """Return the table and its conclusion as plain text."""
    return as_plain_text(render(pipeline))


def _title(pipeline: Pipeline) -> Text:
    batch = f", batches of {pipeline.batch_size}" if pipeline.batch_size else ""
    text = Text.assemble((pipeline.dataset, "bold"), f"  {_milliseconds(pipeline.sample_seconds)} ms per sample")
    return text.append(f"  ({pipeline.samples} samples traced{batch})", style="dim")


def _conclusion(pipeline: Pipeline) -> Text:
    """Return the main result: the operator with the most time, and whether it computes or waits."""
    if not pipeline.operators:
        return Text("A sample goes through no operators: the dataset hands over what it holds.")
    hottest = pipeline.hottest()
    whole = max(pipeline.sample_seconds, pipeline.attributed_seconds)
    share = hottest.wall_seconds / whole if whole else 0.0
    kind = "waiting: more threads or workers hide it" if hottest.waits else "computing: it needs cores, or less to do"
    text = Text.assemble("Hottest: ", (hottest.name, "bold"), f", {share:.0%} of a sample's time, {kind}.")
    if pipeline.unattributed_share > TRUSTED_SHARE:
        text.append(
            f"\n{pipeline.unattributed_share:.0%} of the time belongs to no operator: "
            "look at the dataset's own code before any single operator.",
            style="yellow",
        )
    return text


def _tree(pipeline: Pipeline) -> list[Branch | Operator]:
    """Return the operators in order below the calls around them; a call that holds only another call joins it."""
    root = Branch("")
    for operator in pipeline.operators:
        if not operator.sites:
            continue
        branch = root
        for name in operator.within:
            inner = next((e for e in branch.entries if isinstance(e, Branch) and e.name == name), None)
            if inner is None:
                inner = Branch(name)
                branch.entries.append(inner)
            branch = inner
        branch.entries.append(operator)
    return [_joined(entry) for entry in root.entries]


def _joined(entry: Branch | Operator) -> Branch | Operator:
    if isinstance(entry, Operator):
        return entry
    while len(entry.entries) == 1 and isinstance(entry.entries[0], Branch):
        inner = entry.entries[0]
        entry = Branch(f"{entry.name} > {inner.name}", inner.entries)
    return Branch(entry.name, [_joined(inner) for inner in entry.entries])


def _add_rows(
    table: Table,
    entries: list[Branch | Operator],
    hottest: Operator | None,
    whole_seconds: float,
    indent: str,
    names: Mapping[str, str],
) -> None:
    for entry in entries:
        if isinstance(entry, Branch):
            figures = [Text(figure, style="dim") for figure in _figures(entry.wall_seconds, whole_seconds)]
            _add_row(table, Text(indent + entry.name, style="cyan"), figures, Text(), Text())
            _add_rows(table, entry.entries, hottest, whole_seconds, indent + "  ", names)
            continue
        _add_row(
            table,
            Text(indent + names.get(entry.name, entry.name), style="bold" if entry is hottest else ""),
            [Text(figure) for figure in _figures(entry.wall_seconds, whole_seconds)],
            _bar(entry.cpu_seconds, entry.wait_seconds, whole_seconds),
            _remarks(entry),
        )


def _figures(seconds: float, whole_seconds: float) -> tuple[str, str]:
    share = seconds / whole_seconds if whole_seconds else 0.0
    return _milliseconds(seconds), f"{share:.0%}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 0.0095 else f"{seconds * 1e3:.1f}"


def _bar(cpu_seconds: float, wait_seconds: float, whole_seconds: float) -> Text:
    """Return a bar as long as the share of a sample; full blocks are computing, light ones waiting."""
    scale = BAR_WIDTH / whole_seconds if whole_seconds else 0.0
    whole = min(BAR_WIDTH, round((cpu_seconds + wait_seconds) * scale))
    computing = min(whole, round(cpu_seconds * scale))
    return Text.assemble(("█" * computing, "green"), ("░" * (whole - computing), "yellow"))


def _remarks(operator: Operator) -> Text:
    remarks: list[str] = [operator.kind]
    if operator.random:
        remarks.append("random")
    if operator.waits:
        remarks.append("waits")
    if operator.visit_ratio < 0.995 and operator.kind != "collate":
        remarks.append(f"in {operator.visit_ratio:.0%}")
    if operator.read_bytes:
        remarks.append(f"{_size(operator.read_bytes)} read")
    return Text(", ".join(remarks), style="dim")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
