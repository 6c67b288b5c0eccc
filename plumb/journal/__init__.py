"""The journal of a tuning: the state of the script's files before the script changed them, and their restoration.

Processes of the script write the journal (`hook`, `writers`, `temporary_folders`, all through `change_recorder`); the
process that started the script reads it when all of them are gone (`putting_back`). `snapshot` lists the script's
folders beforehand, for changes that no hook sees. Only the standard library is imported here, because programs that the
script starts load this package too.
"""
