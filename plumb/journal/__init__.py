"""The journal of a tuning: what the script's files were before the script changed them, and how they are put back.

Processes of the script write the journal (`hook`, `writers`, `scratch`, all through `recorder`); the process that
started the script reads it when all of them are gone (`restore`). `snapshot` lists the script's folders beforehand, for
changes that no hook sees. Only the standard library is imported here: programs that the script starts load this, too.
"""
