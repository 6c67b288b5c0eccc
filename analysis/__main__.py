"""plumb and its peers side by side, on the ten pipelines of the field.

    python -m analysis [NAME...] [--quick] [--fresh] [--install] [--device cuda]

What was measured of a pipeline is kept, so that a run that was cut short goes on where it was; `--fresh` measures anew.
Prints the summary; a full run of all pipelines writes it to `analysis/results/summary.md`, with its pictures beside it.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from analysis import field, results
from analysis.comparison import FULL, QUICK, Extent, hold
from analysis.outcome import Outcome
from analysis.peers.choosers import LOADTUNE, PARAM_HELPER
from analysis.peers.environments import CannotRunError, Environment
from analysis.peers.libraries import LIBRARIES
from analysis.readings import add_fresh, keep, kept
from analysis.results import publish, say
from analysis.summary import lines_of

# A quick run ends in time on two cores: what it doesn't reach by then, it leaves out.
_QUICK_SECONDS = 480.0
_WITH_ALL = "photos"
_TITLE = "plumb and its peers, side by side"


def main() -> None:
    """Print the results and write them."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"pipelines, of {', '.join(field.NAMES)}")
    parser.add_argument("--quick", action="store_true", help="ten minutes that show no more than that it works")
    add_fresh(parser)
    parser.add_argument("--install", action="store_true", help="make the peers' environments, and nothing else")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: with a real step on a GPU")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(field.NAMES)
    if unknown:
        parser.error(f"no pipeline is called {', '.join(sorted(unknown))}; there are {', '.join(field.NAMES)}")
    if asked.device == "cuda":
        from analysis import device

        device.compare(asked.quick)
        return
    if asked.install or not asked.quick:
        install()
    if asked.install:
        return
    names = asked.names or field.NAMES
    outcomes = measured(names, QUICK if asked.quick else FULL, asked.quick, asked.fresh)
    if not outcomes:
        sys.exit("analysis: nothing was measured")
    whole = not asked.quick and {outcome.name for outcome in outcomes} >= set(field.NAMES)
    publish("summary", _TITLE, [*(_pictures(outcomes) if whole else []), *lines_of(outcomes)], keep=whole)


def install() -> None:
    """Make the environments of all peers; print what can't be made, and leave it out of the comparison."""
    for environment in (*(library.environment for library in LIBRARIES), LOADTUNE, PARAM_HELPER):
        _make(environment)


def _make(environment: Environment) -> None:
    try:
        environment.make()
    except CannotRunError as reason:
        say(f"peers: {environment.name} {reason}")


def measured(names: Sequence[str], extent: Extent, is_quick: bool, is_fresh: bool) -> list[Outcome]:
    """Return the outcomes of these pipelines, and the earlier ones where they were kept."""
    variant, outcomes, begun = "quick" if is_quick else "full", [], time.perf_counter()
    for number, name in enumerate(names, 1):
        outcome = None if is_fresh else kept(variant, name, Outcome)
        if outcome is None and is_quick and time.perf_counter() - begun > _QUICK_SECONDS:
            say(f"analysis: {name} is left out, there is no time")
            continue
        if outcome is None:
            say(f"analysis: {name}, {number} of {len(names)}")
            with field.opened(name, is_quick) as pipeline:
                outcome = hold(name, pipeline, extent, not is_quick or name == _WITH_ALL)
            keep(variant, name, outcome)
            say(f"analysis: {name} is done after {time.perf_counter() - begun:,.0f} s")
        outcomes.append(outcome)
    return outcomes


def _pictures(outcomes: Sequence[Outcome]) -> list[str]:
    from analysis import plots

    plots.shares(outcomes, results.FOLDER / "shares.svg")
    plots.means(outcomes, results.FOLDER / "peers.svg")
    return ["![plumb's lead over each peer](peers.svg)", "", "![Every peer on every pipeline](shares.svg)", ""]


if __name__ == "__main__":
    main()
