"""plumb's answers at several budgets: how near the best they are when time is short.

    python -m analysis.budgets [--quick] [--only PIPELINE...] [--quota CPUS]

Each pipeline is tuned with each budget; then the answers, the script's own configuration, torch's suggested worker
count and the grid of torch's worker counts are measured by turns. `--quota` keeps everything to so many CPUs by a
cgroup. Prints and writes `analysis/results/budgets.md`, or `budgets-quota.md`.
"""

import contextlib
from statistics import median

from analysis import results
from analysis.answers import PIPELINES, answer, hold
from analysis.contention import cpu_quota
from analysis.field import opened
from analysis.results import Effort, publish, say, table

FULL, QUICK = Effort(5, 0.8, 60.0), Effort(2, 0.4, 10.0)
BUDGETS_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)
# What each answer should reach of the better of the script's own and torch's suggested configuration.
AIM = 0.97


def main() -> None:
    """Print the results and write them."""
    parser = results.arguments(__doc__, FULL)
    parser.add_argument("--only", nargs="+", choices=PIPELINES, default=PIPELINES)
    parser.add_argument("--quota", type=float, help="CPUs of a cgroup for all of it")
    asked = parser.parse_args()
    effort = QUICK if asked.quick else FULL
    budgets = [each for each in BUDGETS_SECONDS if each <= effort.budget_seconds]
    rows: list[list[str]] = []
    of_better: dict[float, list[float]] = {budget: [] for budget in budgets}
    of_best: dict[float, list[float]] = {budget: [] for budget in budgets}
    with cpu_quota(asked.quota) if asked.quota else contextlib.nullcontext():
        for name in asked.only:
            with opened(name, asked.quick) as pipeline:
                answers = {}
                for budget in budgets:
                    answers[budget] = answer(pipeline, budget, f"{budget:g} s")
                    say(f"{name}, {budget:g} s: {answers[budget].plan.config} in {answers[budget].seconds:.0f} s")
                held = hold(pipeline, list(answers.values()), effort)
            for budget, each in answers.items():
                of_better[budget].append(held.of_better(each.name))
                of_best[budget].append(held.of_best(each.name))
                rows.append(
                    [
                        name,
                        f"{budget:g}",
                        f"{each.seconds:.0f}",
                        str(each.plan.config),
                        f"{held.of_better(each.name):.2f}",
                        f"{held.of_best(each.name):.2f}",
                    ]
                )
    summary = [
        f"- {budget:g} s: {median(of_better[budget]):.2f} of the better of the script's own and torch's suggested "
        f"configuration in the median, {min(of_better[budget]):.2f} at the least ({AIM} is the aim); "
        f"{median(of_best[budget]):.2f} of the best in the median"
        for budget in budgets
    ]
    head = ["pipeline", "budget, s", "took, s", "answer", "of the better of own and suggested", "of the best"]
    lines = [*summary, "", *table(head, rows)]
    title = f"Answers by budget{f', with a quota of {asked.quota:g} CPUs' if asked.quota else ''}"
    is_whole = not asked.quick and tuple(asked.only) == PIPELINES
    publish("budgets-quota" if asked.quota else "budgets", title, lines, keep=is_whole)


if __name__ == "__main__":
    main()
