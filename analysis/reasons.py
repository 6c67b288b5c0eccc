"""Why a peer is faster than plumb: as far as the measurements say it, and what is known of the peer."""

from statistics import median

from analysis.outcome import PLUMB, PLUMB_UNCACHED, Entry, Outcome
from plumb.model.resource_bounds import EPOCHS

# Turns of one loader that lie further apart than this say that the host was not the same in all of them.
_APART = 0.25
_SEARCHES = "it chooses among plumb's own configurations, and runs them with plumb's own loader"
_KNOWN = {
    "FFCV": "it reads a file of its own format, in which the images were written before, and decodes in compiled code",
    "DALI": "it decodes in compiled code, and of each image only what the crop needs",
    "tf.data": "it decodes in compiled code, and of each image only what the crop needs",
    "random search": _SEARCHES,
    "Optuna alone": _SEARCHES,
}
_GRID = "it is the fastest of many that were looked at, for longer than plumb may take"


def known_of(peer: str) -> str:
    """Return what is known of a peer that makes it fast, in a sentence."""
    return _KNOWN.get(peer, "unknown")


def reason(outcome: Outcome, faster: Entry) -> str:
    """Why `faster` is, in a sentence; what is not known is said to be unknown."""
    plumb = outcome.entry(PLUMB)
    assert plumb is not None
    told = [_KNOWN[faster.peer]] if faster.peer in _KNOWN else []
    if faster.peer == "a full grid's best":
        told.append(_GRID)
    share = _over_epochs(outcome, plumb, faster)
    if share is not None:
        over = f"over {EPOCHS} epochs, the first of which fills a store, plumb reaches {share:.3f} of it"
        told.append(f"{over}, and these it chooses for")
    spread = (max(plumb.rates) - min(plumb.rates)) / median(plumb.rates)
    if spread > _APART:
        told.append(f"plumb's own turns, of one configuration, lie {spread:.0%} apart")
    return "; ".join(told) or "unknown"


def _over_epochs(outcome: Outcome, plumb: Entry, faster: Entry) -> float | None:
    """Return the share that plumb reaches of the other's rate over ten epochs; None if neither stores anything.

    No first epoch is faster than plumb is where it stores nothing, and each that fills a store is given that much.
    """
    first = outcome.entry(PLUMB_UNCACHED) or plumb
    if not any(map(_stores, (plumb, faster))) or _stores(first):
        return None

    def seconds(entry: Entry) -> float:
        later = 1 / entry.rate.samples_per_second
        filling = 1 / first.rate.samples_per_second if _stores(entry) else later
        return filling + (EPOCHS - 1) * later

    return seconds(faster) / seconds(plumb)


def _stores(entry: Entry) -> bool:
    return " stored in " in entry.configuration
