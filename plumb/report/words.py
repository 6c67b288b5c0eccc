"""Resources in words."""

from __future__ import annotations

from plumb.plan import Config, Prediction

RESOURCES = {
    "cpu": "the CPU",
    "workers": "the workers",
    "main process": "the main process",
    "storage": "the storage",
    "transfer": "the copy to the device",
    "step": "the training step",
}
_REASONS = {
    "cpu": "all cores that this process may use are busy",
    "workers": "each is busy all the time, and more of them would help",
    "main process": "it takes over batches as fast as it can",
    "storage": "it delivers no more bytes than this",
    "transfer": "it moves no more bytes than this",
    "step": "it gets its data as fast as it can take it",
}


def reason(prediction: Prediction, config: Config) -> str:
    """What limits a configuration, and how that shows."""
    bottleneck = prediction.bottleneck
    if bottleneck == "main process" and not config.num_workers:
        return "the main process: it loads every batch itself, between two steps"
    return f"{RESOURCES[bottleneck]}: {_REASONS[bottleneck]}"
