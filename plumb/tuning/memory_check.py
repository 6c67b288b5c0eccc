"""Check that a limit of memory leaves room for a loader at all."""

from __future__ import annotations

from plumb.core.errors import TuningError
from plumb.core.units import format_bytes
from plumb.host.process_memory import script_bytes
from plumb.tuning.options import Options


def check_memory(options: Options, used_bytes: float | None = None) -> None:
    """Raise TuningError if this process uses more memory than is allowed, in the words of a command or of Python.

    Args:
        options: Options of the tuning.
        used_bytes: Bytes that the process uses; None to look.
    """
    used, allowed = script_bytes() if used_bytes is None else used_bytes, options.limits.memory_bytes
    if used <= allowed:
        return
    much = f"{format_bytes(used)}, more than the {format_bytes(allowed)} that are allowed"
    if options.script:
        text = f"the script itself uses {much}; raise --memory, or the host's limit"
    else:
        enough = f"{max(1, round(2 * used / 2**30))}GiB"
        text = f'this process uses {much}: allow more, for example memory="{enough}", or raise the host\'s limit'
    raise TuningError(text, exit_code=2)
