"""`plumb trace`: shows what a sample of a script goes through."""

from __future__ import annotations

import json
from collections.abc import Sequence

from plumb.cli.script_run import nothing_done, run_in_session
from plumb.report.output import wide_console, write_plainly
from plumb.tuning.child_orders import Orders, Target, TuneOrders


def trace(target: Target, arguments: list[str], orders: TuneOrders, form: str, misplaced: Sequence[str] = ()) -> int:
    """Print the operator graph of a sample of the script's loader, as a "tree", as "json" or as "dot".

    `misplaced` are words after the script that are options of this command.

    Returns the exit code. Raises ExplainedError if there is nothing to show.
    """
    from plumb.tracing.stored_pipeline import from_node_link

    ordered = Orders(target, tune=orders)
    story, outcome = run_in_session(ordered, arguments, quiet=form != "tree")
    if story.traced is None:
        raise nothing_done(ordered, story, outcome, misplaced)
    if form == "json":
        write_plainly(json.dumps(story.traced.graph, indent=2))
    elif form == "dot":
        write_plainly(from_node_link(story.traced.graph).to_dot())
    else:
        from plumb.core.device_profile import DeviceProfile
        from plumb.report.terminal_device import render as render_device
        from plumb.report.trace_tree import render

        output, pipeline = wide_console(), from_node_link(story.traced.graph)
        output.print(f"{story.traced.name}  {story.traced.site}", highlight=False)
        output.print(render(pipeline, output.width))
        output.print(render_device(DeviceProfile.from_dict(story.traced.device), pipeline))
    return 0
