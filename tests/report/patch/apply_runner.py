"""Runs scripts one after the other, and prints what torch was given for each of their loaders, and their sites.

Standard input holds a JSON list of lists: a script and its arguments. Standard output is a list of lists of loaders.
With the argument "construct", loaders are made, but give no batches.
"""

import json
import runpy
import sys

from plumb.script import interception


class _Notes:
    def __init__(self, only_construct):
        self.only_construct = only_construct
        self.loaders = []

    def constructing(self, site, arguments):
        return arguments

    def constructed(self, loader, site):
        note = {"name": site.name, "site": str(site), "batch_size": loader.batch_size}
        for name in ("num_workers", "prefetch_factor", "persistent_workers", "pin_memory", "in_order", "timeout"):
            note[name] = getattr(loader, name, True)
        self.loaders.append(note)

    def iterating(self, loader, start, plain_loop):
        return iter(()) if self.only_construct else start()


def main():
    notes = _Notes("construct" in sys.argv)
    interception.install(notes)
    told = []
    for script, *arguments in json.load(sys.stdin):
        notes.loaders = []
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        told.append(notes.loaders)
    print(json.dumps(told))


main()
