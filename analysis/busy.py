"""plumb's answers on a busy host, held against measurements of a quiet one.

    python -m analysis.busy [--quick] [--only PIPELINE...] [--repeats N]

Each pipeline is tuned while processes of this script take none, a half, one, or a changing share of the host's CPUs, by
a seed. Then, with nobody beside it, the answers, the script's own configuration, torch's suggested worker count and the
grid of torch's worker counts are measured by turns. Prints and writes `analysis/results/busy.md`.
"""

from dataclasses import dataclass

from analysis import results
from analysis.answers import PIPELINES, Answer, Held, answer, hold
from analysis.contention import CHANGING, background_load
from analysis.field import opened
from analysis.results import Effort, publish, say, table

FULL, QUICK = Effort(5, 0.8, 20.0), Effort(2, 0.4, 8.0)
LOADS = (0.0, 0.5, 1.0, CHANGING)
# An answer is good from the first share of the best on, and next to the best from the second; a loader that is slower
# than its start by more than the last one is slower.
_GOOD, _NEXT_TO_BEST, _SLOWER = 0.9, 0.95, 0.97
# Less than this cannot be told from noise.
_GAIN = 1.05


@dataclass(frozen=True)
class Judged:
    """One tuning: its answer, and the rates on a quiet host."""

    pipeline: str
    load: float
    answer: Answer
    held: Held

    @property
    def over_own(self) -> float:
        """The answer's rate as a multiple of that of the script's own configuration."""
        return self.held.answers[self.answer.name] / self.held.own

    @property
    def is_false_faster(self) -> bool:
        """True if it changes the configuration for one that is slower."""
        return self.answer.changes and self.over_own < _SLOWER

    @property
    def is_false_nothing(self) -> bool:
        """True if it changes nothing where something is to be gained."""
        return not self.answer.changes and self.held.best / self.held.own >= _GAIN


def main() -> None:
    """Print the results and write them."""
    parser = results.arguments(__doc__, FULL)
    parser.add_argument("--only", nargs="+", choices=PIPELINES, default=PIPELINES)
    parser.add_argument("--repeats", type=int, default=3, help="tunings of each pipeline under each load")
    asked = parser.parse_args()
    effort, repeats = (QUICK, 1) if asked.quick else (FULL, asked.repeats)
    judged: list[Judged] = []
    for name in asked.only:
        with opened(name, asked.quick) as pipeline:
            answers: list[tuple[float, Answer]] = []
            for load in LOADS:
                for repeat in range(repeats):
                    with background_load(load, seed=repeat):
                        found = answer(pipeline, effort.budget_seconds, f"{_named(load)}, {repeat}")
                    say(f"{name}, {found.name}: {found.plan.config} in {found.seconds:.0f} s")
                    answers.append((load, found))
            held = hold(pipeline, [each for _, each in answers], effort)
        judged += [Judged(name, load, each, held) for load, each in answers]
    counted = ("tunings", "good", "next to best", "slower than the start", "false faster", "false nothing")
    head = ["others take", *counted, "s"]
    lines = table(head, [_row(load, [each for each in judged if each.load == load]) for load in LOADS])
    lines += [
        "",
        f"Good: at least {_GOOD:g} of the best. Next to best: at least {_NEXT_TO_BEST:g}. Slower: less than "
        f"{_SLOWER:g} of the script's own. False nothing: nothing changed, though the best is {_GAIN:g} times its own.",
        "",
        *table(
            ["pipeline", "others take", "answer", "over the script's own", "of the best", "s"],
            [
                [
                    each.pipeline,
                    _named(each.load),
                    str(each.answer.plan.config),
                    f"{each.over_own:.2f}",
                    f"{each.held.of_best(each.answer.name):.2f}",
                    f"{each.answer.seconds:.0f}",
                ]
                for each in judged
            ],
        ),
    ]
    publish("busy", "Answers on a busy host", lines, keep=not asked.quick and tuple(asked.only) == PIPELINES)


def _named(load: float) -> str:
    return "a changing share" if load == CHANGING else f"{load:g} CPUs"


def _row(load: float, judged: list[Judged]) -> list[str]:
    shares = [each.held.of_best(each.answer.name) for each in judged]
    counts = [
        sum(share >= _GOOD for share in shares),
        sum(share >= _NEXT_TO_BEST for share in shares),
        sum(each.over_own < _SLOWER for each in judged),
        sum(each.is_false_faster for each in judged),
        sum(each.is_false_nothing for each in judged),
    ]
    seconds = sum(each.answer.seconds for each in judged) / len(judged)
    return [_named(load), str(len(judged)), *map(str, counts), f"{seconds:.0f}"]


if __name__ == "__main__":
    main()
