"""Function rewriter and recorder, digests, generator states, what a dataset holds, fork safety."""
