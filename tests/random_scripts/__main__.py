"""Runs many seeds: `python -m tests.random_scripts --seeds 0:1000 --jobs 2`; exits with 1 where any is wrong."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.random_scripts.recipe import draw
from tests.random_scripts.running import Wishes, run_seed
from tests.random_scripts.text import source_of
from tests.random_scripts.zygote import Zygote


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.random_scripts", description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="FIRST:LAST (without LAST), or a list with commas")
    parser.add_argument("--jobs", type=int, default=1, help="how many scripts at once")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of each tuning")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds after which a command hangs")
    parser.add_argument("--no-tune", action="store_true", help="run on forced plans only")
    parser.add_argument("--shared-memory", action="store_true", help="look for leftovers in /dev/shm, too")
    parser.add_argument("--show", type=int, help="print the script of a seed instead")
    parser.add_argument("--keep", type=Path, help="a folder for the scripts that failed")
    options = parser.parse_args()
    if options.show is not None:
        print(source_of(draw(options.show)))
        return 0
    wishes = Wishes(not options.no_tune, options.budget, options.timeout, options.shared_memory)
    seeds = iter(_numbers(options.seeds))
    lock, failed = threading.Lock(), []

    def work() -> None:
        zygote = Zygote()
        while True:
            with lock:
                number = next(seeds, None)
            if number is None:
                break
            problems = run_seed(number, zygote, wishes)
            with lock:
                print(f"{number}: {'FAILED' if problems else 'ok'}", flush=True)
                for problem in problems:
                    print(f"    {problem}", flush=True)
                if problems:
                    failed.append(number)
                    _keep(number, options.keep)
        zygote.close()

    threads = [threading.Thread(target=work) for _ in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{len(failed)} failed: {','.join(map(str, sorted(failed)))}")
    return 1 if failed else 0


def _numbers(text: str) -> Iterator[int]:
    if ":" in text:
        first, last = text.split(":")
        return iter(range(int(first), int(last)))
    return map(int, text.split(","))


def _keep(number: int, folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"seed_{number}.py").write_text(source_of(draw(number)))


if __name__ == "__main__":
    sys.exit(main())
