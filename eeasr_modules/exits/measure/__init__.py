"""What choices are worth: edits, bounds, intervals, comparisons, fusion, ExitBench."""
