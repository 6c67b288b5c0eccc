"""Dataset code -> a graph of operators, by recompiling the functions that a sample goes through."""
