"""A recipe: which of the things that training scripts do one random script does."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

DATASETS = ("map", "map", "map", "getitems", "subset", "concat", "tensors", "iterable", "batched", "generator")
ORDERS = (
    "sequential", "shuffle", "shuffle", "own generator", "own sampler", "batch sampler", "weighted", "epoch sampler",
)  # fmt: skip
SAMPLES = ("tuple", "tuple", "dict", "namedtuple", "strings", "nested", "dataclass")
COLLATES = ("default", "default", "lambda", "function", "class", "partial", "list", "ragged", "nested tensors")
LOOPS = (
    "for", "for", "break", "next of iter", "while", "zip", "cycle", "progress", "validation", "one ahead", "thread",
)  # fmt: skip
PLACES = ("module", "function", "class", "comprehension", "anew", "subclass", "factory", "partial")
RANDOM = ("none", "none", "none", "torch", "numpy", "python", "own", "by class")
STATES = (
    "none", "none", "none", "count", "count in value", "seen", "memo",
    "attribute", "list", "array", "global", "transform", "tensor",
    "attribute in loop", "tensor in loop", "buffer in loop", "collate attribute",
)  # fmt: skip
FILES = ("none", "none", "checkpoint", "csv", "best", "json", "atomic", "rotated")
READING = ("memory", "memory", "lazy handle", "handle at start", "mmap", "open", "closure", "cached")
STARTS = ("default", "default", "default", "default", "default", "spawn", "forkserver")
ENDS = ("normal", "normal", "normal", "normal", "exit 0", "exit 3", "error", "error in sample", "caught in sample")


@dataclass(frozen=True)
class Recipe:
    """What one script does. `number` is its seed; `guarded` says that its main part is under a main guard."""

    number: int
    dataset: str
    order: str
    sample: str
    collate: str
    loop: str
    place: str
    randomness: str
    state: str
    files: str
    reading: str
    start: str
    ends: str
    guarded: bool
    trains: bool
    samples: int
    batch_size: int
    epochs: int
    num_workers: int
    prefetch_factor: int | None
    persistent_workers: bool
    pin_memory: bool
    drop_last: bool
    worker_init: bool
    sample_microseconds: int
    draws_in_loop: str

    @property
    def is_stream(self) -> bool:
        """Whether the dataset is iterable."""
        return self.dataset in ("iterable", "generator")

    @property
    def draws_globally(self) -> bool:
        """Whether samples draw from the process-wide generators, which differ between workers by torch's own rules."""
        return self.randomness in ("torch", "numpy", "python", "by class")

    @property
    def values_follow_workers(self) -> bool:
        """Whether values hang on how many workers there are, and how long they live, by torch's own rules.

        Each worker of the script's own has a copy of the dataset, with its generator and its counts.
        """
        return self.draws_globally or (self.num_workers > 0 and self.is_own_to_each_worker)

    @property
    def is_own_to_each_worker(self) -> bool:
        """Whether samples use what their dataset keeps, and each of them changes."""
        return self.randomness == "own" or self.state == "count in value"

    @property
    def is_harmless(self) -> bool:
        """Whether nothing speaks against workers, so that a plan's must be used, and without a word."""
        return (
            not self.is_stream
            and self.state == "none"
            and self.randomness != "own"
            and self.reading in ("memory", "open", "mmap")
            and self.start == "default"
            and not self.ends.endswith("in sample")
        )

    @property
    def order_follows_samples(self) -> bool:
        """Whether what samples draw in the main process moves the generator that a later order is drawn from."""
        if not self.draws_globally or self.num_workers:
            return False
        numpy_order = self.order in ("own sampler", "batch sampler")
        torch_order = self.order in ("shuffle", "weighted")
        if self.randomness == "numpy":
            return numpy_order
        return torch_order and self.randomness in ("torch", "by class")


def draw(number: int) -> Recipe:
    """The recipe of a seed: each thing drawn by itself, then made to fit the others."""
    generator = random.Random(number)
    one_of = generator.choice
    recipe = Recipe(
        number=number,
        dataset=one_of(DATASETS),
        order=one_of(ORDERS),
        sample=one_of(SAMPLES),
        collate=one_of(COLLATES),
        loop=one_of(LOOPS),
        place=one_of(PLACES),
        randomness=one_of(RANDOM),
        state=one_of(STATES),
        files=one_of(FILES),
        reading=one_of(READING),
        start=one_of(STARTS),
        ends=one_of(ENDS),
        guarded=generator.random() < 0.5,
        trains=generator.random() < 0.8,
        samples=generator.randrange(16, 72),
        batch_size=generator.randrange(1, 9),
        epochs=generator.randrange(2, 4),
        num_workers=one_of((0, 0, 0, 1, 2)),
        prefetch_factor=one_of((None, None, 1, 3)),
        persistent_workers=generator.random() < 0.4,
        pin_memory=generator.random() < 0.15,
        drop_last=generator.random() < 0.3,
        worker_init=generator.random() < 0.2,
        sample_microseconds=one_of((0, 0, 200, 1000)),
        draws_in_loop=one_of(("none", "none", "torch", "numpy", "python")),
    )
    return fitted(recipe)


def fitted(recipe: Recipe) -> Recipe:
    """The recipe without what makes no sense together, or what goes wrong in the plain script too."""
    change = dataclasses.replace
    if recipe.num_workers == 0:
        recipe = change(recipe, prefetch_factor=None, persistent_workers=False, worker_init=False)
    if recipe.start != "default":
        recipe = change(recipe, guarded=True)
        if recipe.num_workers:
            # What can't be sent to a spawned worker fails plainly, too.
            recipe = change(
                recipe,
                collate="function" if recipe.collate in ("lambda", "nested tensors") else recipe.collate,
                reading="memory" if recipe.reading in ("handle at start", "closure") else recipe.reading,
            )
    if recipe.start != "default" and recipe.num_workers and recipe.loop in ("validation", "next of iter"):
        # Each epoch of the other loader, and each step, would start workers anew, which import torch.
        recipe = change(recipe, loop="for")
    if recipe.dataset == "tensors":
        recipe = change(recipe, sample="tuple", randomness="none", reading="memory", state="none", ends="normal")
    if recipe.is_stream or recipe.dataset == "batched":
        recipe = change(recipe, order="sequential" if recipe.is_stream else recipe.order)
        if recipe.order in ("batch sampler",):
            recipe = change(recipe, order="shuffle")
    if recipe.dataset == "batched":
        recipe = change(recipe, sample="tuple", collate="default", drop_last=False)
    if recipe.is_stream and recipe.state in ("attribute in loop", "tensor in loop", "buffer in loop"):
        # What a stream has read ahead of a loop is its own affair.
        recipe = change(recipe, state="none")
    if recipe.order == "batch sampler":
        recipe = change(recipe, drop_last=False)
    if recipe.num_workers > 1 and recipe.reading == "handle at start":
        # Two forked workers share its position: wrong in the plain script, too.
        recipe = change(recipe, reading="lazy handle")
    if recipe.state == "collate attribute" and recipe.collate != "class":
        recipe = change(recipe, collate="class", sample="tuple")
    if recipe.dataset == "batched" and recipe.state == "collate attribute":
        recipe = change(recipe, state="none", collate="default")
    if recipe.collate != "default":
        recipe = change(recipe, sample="tuple")
    if recipe.sample == "dataclass":
        recipe = change(recipe, collate="objects")
    if recipe.loop == "thread" and recipe.state.endswith("in loop"):
        # How far the thread has read when the loop changes something depends on timing.
        recipe = change(recipe, loop="for")
    if recipe.loop == "thread" and (recipe.draws_in_loop != "none" or recipe.draws_globally):
        recipe = change(recipe, draws_in_loop="none", randomness="none")
    if recipe.loop == "thread" and recipe.state not in ("none", "memo"):
        recipe = change(recipe, state="none")
    if recipe.ends.endswith("in sample") and recipe.loop in ("thread", "zip", "one ahead", "cycle"):
        recipe = change(recipe, ends="normal")
    return recipe
