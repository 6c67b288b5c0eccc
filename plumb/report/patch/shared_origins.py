"""Places from which several loaders get the same argument, so that a change there changes all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from plumb.core.config import Config
from plumb.core.construction import Construction
from plumb.core.plan import LoaderResult
from plumb.report.patch.call_chain import Lookup
from plumb.report.patch.call_edit import Argument, OtherUse, arguments_of, wanted_values
from plumb.report.patch.option_origin import Origin
from plumb.report.patch.source_file import LoaderCall, SourceFile
from plumb.report.patch.sources import Sources


@dataclass(frozen=True)
class Located:
    """A loader of the plan, the call that makes it, and the configuration that the call should have."""

    loader: LoaderResult
    source: SourceFile
    call: LoaderCall
    arguments: dict[str, Argument]
    after: Config


class SharedOrigins:
    """Origins of the arguments of all loaders: those in the plan, and others that the same files make."""

    def __init__(self, found: Sequence[Located], sources: Sources) -> None:
        self._found = found
        self._unplanned = list(_unplanned(found, sources))

    def others(self, asking: Located, name: str, origin: Origin) -> list[OtherUse]:
        """Return the other loaders that get the argument `name` from `origin`, if other calls make them."""
        planned = [
            OtherUse(f"{each.loader.name} ({each.source.place(each.call.node)})", wanted_values(each.after).get(name))
            for each in self._users(name, origin)
            if each.loader is not asking.loader
        ]
        unplanned = [
            OtherUse(f"{call.name or call.function or 'a loader'} ({source.place(call.node)})")
            for source, call, its in self._unplanned
            if _has_origin(its, name, origin)
        ]
        return planned + unplanned

    def contradictions(self, advised: Collection[str], run_command: str) -> Iterator[str]:
        """Yield a remark for each place that would have to hold two values at once, if a loader was `advised` on it."""
        places = {
            (name, argument.origin.text, argument.origin.where): argument.origin
            for each in self._found
            if each.loader.name in advised
            for name, argument in each.arguments.items()
            if argument.origin is not None
        }
        for (name, text, _), origin in places.items():
            users = self._users(name, origin)
            if len({repr(wanted_values(each.after).get(name)) for each in users}) > 1:
                names = " and ".join(dict.fromkeys(each.loader.name for each in users))
                yield (
                    f"{names} share {text}: choose what suits the loader that you train on, or give each its own value "
                    f"with {run_command}"
                )

    def _users(self, name: str, origin: Origin) -> list[Located]:
        return [each for each in self._found if _has_origin(each.arguments, name, origin)]


def _has_origin(arguments: Mapping[str, Argument], name: str, origin: Origin) -> bool:
    own = arguments[name].origin
    return own is not None and own.is_same_as(origin)


def _unplanned(
    found: Sequence[Located], sources: Sources
) -> Iterator[tuple[SourceFile, LoaderCall, dict[str, Argument]]]:
    """Yield the calls in the same files that make loaders which aren't in the plan."""
    made = {each.call.node for each in found}
    known = next((each.loader.construction for each in found if each.loader.construction), None)
    # Which calls led to such a loader isn't known.
    construction = Construction(options=known.options, sources=known.sources) if known else Construction()
    for source in dict.fromkeys(each.source for each in found):
        for call in source.loader_calls:
            if call.node not in made:
                yield source, call, arguments_of(source, call, Lookup(call.name or "", sources, construction), None)
