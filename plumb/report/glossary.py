"""Meanings of the words in reports, for `plumb help`; `docs/glossary.md` has the same."""

from __future__ import annotations

import difflib
import re

WORDS = {
    "your loop": "the loop of your script, with its training steps; its rate is what a training gains or loses",
    "the loader alone": "batches loaded as fast as the loader can, without training between them",
    "step": "all that your loop does between two batches: forward, backward, optimizer, logging",
    "waits for data": "the share of your loop's time that it would save if each batch were ready when it asks for it",
    "samples/s": "samples per second; a batch of 64 is 64 samples",
    "interval": "'205 samples/s (200 to 210)': the true rate lies between 200 and 210 with 95% confidence",
    "no workers": "num_workers=0: your script's own process loads each batch, while training stands still",
    "workers": "processes that load batches while your script trains (num_workers)",
    "prefetch": "batches that each worker loads ahead of the loop (prefetch_factor)",
    "persistent": "workers live on from epoch to epoch instead of being started for each (persistent_workers=True)",
    "pinned": "batches in page-locked memory, from which a GPU copies faster (pin_memory=True)",
    "by spawn": "how workers are started (multiprocessing_context): by fork, forkserver or spawn",
    "torch threads": "threads for torch's operations in each worker; torch itself allows one there",
    "batches in any order": "a batch that is ready does not wait for an earlier one (in_order=False)",
    "loading threads": "threads in a worker that load several samples of a batch at a time; `plumb run` adds them",
    "stored": "what a function returns for a sample is kept, in memory or in a folder, and read in later epochs "
    "instead of being computed again; `plumb run` does it, only where the value is the same each time",
    "whole batches": "an operation runs once on the stacked batch, not once on each sample, with the same values",
    "batch memory used again": "batches come from workers in memory that earlier ones were in; fresh memory is slower",
    "one run": "measured once, by itself; figures of single runs vary by about 10%",
    "in turns": "measured alternately with your own configuration, so that a slower minute of the host meets both",
    "pairs of measurements": "your own configuration and another one, measured one right after the other",
    "not told apart": "the measurements vary more than the two rates differ",
    "ended early": "measuring stopped, because the rate was clearly below the best so far",
    "predicted": "computed by plumb's model from measured costs, before it was tried; also 'by the model'",
    "by the clock": "over whole epochs of a run: starting workers and storing samples for the first time included",
    "what limits it": "the resource that is used up first: CPU, workers, main process, storage, copy to the device, or "
    "the training step; more of it would make loading faster",
    "main process": "the process of your script: it trains, and takes each batch over from the workers",
    "taking batches over": "time that your script's process needs to receive batches from workers",
    "other ranks": "time that a step of distributed training waits for the other processes",
    "a sample goes through": "the operations that make one sample, in order, with their share of its time",
    "plan": "the file that a tuning writes (train.plumb.json); `plumb run` uses it and `plumb apply` writes it down",
}


def explained(question: str) -> dict[str, str]:
    """Return the terms, with their meanings, that `question` has in it or that have it in them; else the nearest one.

    >>> list(explained("2 workers, prefetch 4"))
    ['workers', 'prefetch']
    """
    asked = _words(question)
    found = {
        term: meaning
        for term, meaning in WORDS.items()
        if _contains(asked, _words(term)) or _contains(_words(term), asked)
    }
    if not found:
        nearest = difflib.get_close_matches(question.lower(), WORDS, n=1)
        found = {term: WORDS[term] for term in nearest}
    return found


def _words(text: str) -> list[str]:
    """Return the words of a text without endings that make plurals."""
    return [word.removesuffix("s") for word in re.findall(r"[a-z/]+", text.lower())]


def _contains(words: list[str], part: list[str]) -> bool:
    return bool(part) and any(words[place : place + len(part)] == part for place in range(len(words)))
