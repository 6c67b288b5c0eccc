"""Speed of the simulator, and its error against torch's own loader on batches that only wait.

    python -m analysis.simulator

Prints and writes `analysis/results/simulator.md`. The real loader's batches sleep for known times, so that nothing but
torch's own order of events is compared.
"""

import time

import numpy as np
from torch.utils.data import DataLoader, Dataset

from analysis.images import ROOT
from analysis.machine import description
from plumb.model.simulator import SimulationParameters, consumed, simulate

RESULTS = ROOT / "analysis" / "results" / "simulator.md"
BATCHES, TURNS = 40_000, 5
UNEVEN = tuple(np.random.default_rng(0).lognormal(0, 0.3, 100).tolist())
SPEED = {
    "4 workers, prefetch 2, CPU only": SimulationParameters(4, 2, 0.1, hand_over_seconds=0.004, cores=4),
    "4 workers, prefetch 2, uneven batches": SimulationParameters(
        4, 2, 0.1, hand_over_seconds=0.004, spread=UNEVEN, cores=4
    ),
    "8 workers on 2 cores, half waits": SimulationParameters(
        8, 4, 0.1, 0.1, hand_over_seconds=0.004, spread=UNEVEN, cores=2
    ),
    "16 workers, a step with CPU": SimulationParameters(
        16, 2, 0.1, hand_over_seconds=0.004, step_seconds=0.02, step_cpu_seconds=0.01, spread=UNEVEN, cores=16
    ),
    "8 workers, any order": SimulationParameters(
        8, 2, 0.1, hand_over_seconds=0.004, spread=UNEVEN, cores=8, in_order=False
    ),
}
LATE = (0.2,) * 9 + (8.2,)
REAL = {
    "1 worker, prefetch 2": (SimulationParameters(1, 2, 0.0, 0.02), (1.0,)),
    "4 workers, prefetch 2": (SimulationParameters(4, 2, 0.0, 0.02), (1.0,)),
    "4 workers, prefetch 2, a step": (SimulationParameters(4, 2, 0.0, 0.02, step_seconds=0.01), (0.5, 1.5)),
    "4 workers, prefetch 1, every tenth late": (SimulationParameters(4, 1, 0.0, 0.02), LATE),
    "4 workers, prefetch 4, every tenth late": (SimulationParameters(4, 4, 0.0, 0.02), LATE),
    "4 workers, prefetch 1, every tenth late, any order": (SimulationParameters(4, 1, 0.0, 0.02, in_order=False), LATE),
}
EPOCH = 100


class Sleeper(Dataset):
    """Batches that take a known time, and no CPU."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, index: int) -> int:
        time.sleep(self.seconds[index])
        return index


def batches_per_second(loading: SimulationParameters) -> float:
    """Return simulated batches per CPU second, the best of several turns."""
    seconds = []
    for turn in range(TURNS):
        begin = time.process_time()
        simulate(loading, BATCHES, seed=turn)
        seconds.append(time.process_time() - begin)
    return BATCHES / min(seconds)


def real_seconds(loading: SimulationParameters, factors: list[float]) -> float:
    """Seconds of an epoch of torch's own loader, its workers started before; the median of several epochs."""
    loader = DataLoader(
        Sleeper([loading.wait_seconds * factor for factor in factors]),
        batch_size=None,
        num_workers=loading.num_workers,
        prefetch_factor=loading.prefetch_factor,
        persistent_workers=True,
        in_order=loading.in_order,
    )
    seconds = []
    for _ in range(TURNS):
        batches = iter(loader)
        begin = time.perf_counter()
        for _ in batches:
            time.sleep(loading.step_seconds)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:]))


def main() -> None:
    """Print the results and write them."""
    lines = ["# The simulator", "", f"Measured on: {description()}.", "", "## Speed", ""]
    lines += [f"The best of {TURNS} turns of {BATCHES:,} batches each, by the CPU seconds that they take.", ""]
    lines += ["| what | simulated batches per CPU second |", "|---|---|"]
    lines += [f"| {name} | {batches_per_second(loading):,.0f} |" for name, loading in SPEED.items()]
    lines += ["", "## Beside torch's own loader", "", f"An epoch of {EPOCH} batches that sleep for known times.", ""]
    lines += ["| what | torch, s | simulated, s | ratio |", "|---|---|---|---|"]
    for name, (loading, spread) in REAL.items():
        factors = [spread[(7 * place) % len(spread)] for place in range(EPOCH)]
        real, expected = real_seconds(loading, factors), consumed(loading, factors)[-1]
        lines.append(f"| {name} | {real:.3f} | {expected:.3f} | {real / expected:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
